//! A run's result in words.

use serde_json::Value;

use crate::plan::Removed;

/// `removed 8 deliveries, 3 job_runs`, `stored 1000 bytes in archive`
pub fn words(result: Option<&Value>) -> String {
    let Some(result) = result else { return "its result is not recorded".to_owned() };
    let removed = |result| serde_json::from_value::<Removed>(result).ok();
    if let Some(removed) = removed(result.clone()) {
        return removed.to_string();
    }
    if let Some(counts) = result.get("would_remove") {
        let mut like = result.clone();
        like["removed"] = counts.clone();
        let words = removed(like).map(|removed| removed.to_string()).unwrap_or_default();
        return words.replacen("removed", "would remove", 1);
    }
    if let (Some(period), Some(files)) = (result["period"].as_str(), result["files"].as_array()) {
        return format!("reported of {period}, in {} files", files.len());
    }
    let store = result["store"].as_str().unwrap_or_default();
    match (result["bytes"].as_u64(), result["was_there"].as_bool()) {
        (Some(bytes), Some(true)) => format!("found its {bytes} bytes in {store}, and stored nothing"),
        (Some(bytes), Some(false)) => format!("stored {bytes} bytes in {store}"),
        _ => "its result is in the output of --json".to_owned(),
    }
}
