//! Server-sent events: a word to all open pages that there is something new. Each then asks for itself.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::State,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, stream};
use tokio::time::sleep;

use crate::admin::{problem::Problem, state::Admin};

/// Open at once in one process. More are refused: their pages stay as they were loaded.
pub const MOST: usize = 100;

/// Between two words.
const EVERY: Duration = Duration::from_secs(5);

/// Frees its place when its browser leaves.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub async fn listen(State(admin): State<Admin>) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let open = Arc::clone(&admin.listeners);
    if open.fetch_add(1, Ordering::Relaxed) >= MOST {
        open.fetch_sub(1, Ordering::Relaxed);
        return Err(Problem::too_many(
            format!("{MOST} pages are kept current already: load this one again by hand"),
            30,
        ));
    }
    let place = Place(open);
    let words = stream::unfold((place, admin), async |(place, admin)| {
        sleep(EVERY).await;
        let at = admin.snapshot().await.at.timestamp_millis();
        Some((Ok(Event::default().event("changed").data(at.to_string())), (place, admin)))
    });
    Ok(Sse::new(words).keep_alive(KeepAlive::default()))
}
