//! The container image: what its recipe says, and that a worker runs in the root file system that it makes. No image is
//! built here, since there is none to begin with; `helm/check` lints the recipe.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::support::{LIMIT, World};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const USER: &str = "65532:65532";

/// The instructions of a stage, continued lines joined.
fn stages() -> Vec<Vec<(String, String)>> {
    let text = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut stages: Vec<Vec<(String, String)>> = Vec::new();
    for instruction in lines.join("\n").replace("\\\n", " ").lines() {
        let Some((word, rest)) = instruction.split_once(' ') else { continue };
        if word == "FROM" {
            stages.push(Vec::new());
        }
        let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(stage) = stages.last_mut() {
            stage.push((word.to_owned(), rest));
        }
    }
    stages
}

#[test]
fn the_image_is_the_program_and_its_libraries_run_by_nobody() {
    let stages = stages();
    let last = stages.last().unwrap();
    let of = |word: &str| -> Vec<&str> {
        last.iter().filter(|(name, _)| name == word).map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(of("FROM"), ["scratch"]);
    assert_eq!(of("COPY"), ["--from=build /rootfs/ /"]);
    assert_eq!(of("USER"), [USER]);
    assert_eq!(of("EXPOSE"), ["3002 3003"]);
    // In the form that needs no shell.
    assert_eq!((of("ENTRYPOINT"), of("CMD")), (vec![r#"["/carebell"]"#], vec![r#"["run"]"#]));
    assert_eq!(of("RUN"), Vec::<&str>::new(), "there is nothing in it that could run");
    for label in ["title", "description", "licenses", "version", "revision"] {
        assert!(of("LABEL")[0].contains(&format!("org.opencontainers.image.{label}=")), "{label}");
    }
    let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
    assert!(of("ARG").contains(&version.as_str()), "{version}");

    let build = &stages[0];
    let run: Vec<&str> = build.iter().filter(|(word, _)| word == "RUN").map(|(_, rest)| rest.as_str()).collect();
    assert!(run.iter().filter(|run| run.contains("cargo auditable build --release --locked")).count() == 2, "{run:?}");
    // Without it, cargo takes what it has made of the empty sources for current.
    assert!(run[1].ends_with("&& cargo clean --release --package carebell"), "{}", run[1]);
    assert!(run[2].contains("image/rootfs target/release/carebell /rootfs"), "{}", run[2]);
}

#[test]
fn the_build_is_given_all_that_it_reads() {
    let ignored = fs::read_to_string(Path::new(ROOT).join(".dockerignore")).unwrap();
    let ignored: BTreeSet<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    for needed in ["Cargo.toml", "Cargo.lock", "build.rs", "src", "proto", "streams", "migrations", "benches", "image"]
    {
        assert!(Path::new(ROOT).join(needed).exists() && !ignored.contains(needed), "{needed}");
    }
    for unneeded in [".git", "target", "helm", "docs", "tests"] {
        assert!(ignored.contains(unneeded), "{unneeded}");
    }
}

/// Every file below a directory, with its way from there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// As in a pod: user 65532, no file that it may write, no /tmp, no shell.
#[tokio::test]
async fn a_worker_runs_in_the_root_of_the_image_and_writes_nothing() {
    if fs::metadata("/proc/self").map_or(0, |me| me.uid()) != 0 || !is_there("chroot") || !is_there("dpkg-query") {
        println!("not run: only root may change the root, and the script takes its files from Debian");
        return;
    }
    let world = World::new().await;
    let root = world.directory.path().join("rootfs");
    let made = Command::new("sh")
        .args([Path::new(ROOT).join("image/rootfs"), env!("CARGO_BIN_EXE_carebell").into(), root.clone()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let there: Vec<PathBuf> = files(&root);
    for path in &there {
        let meta = fs::metadata(path).unwrap();
        assert!(meta.uid() == 0 && meta.permissions().mode() & 0o022 == 0, "{} can be written", path.display());
    }
    let names: BTreeSet<String> =
        there.iter().map(|path| format!("/{}", path.strip_prefix(&root).unwrap().display())).collect();
    for needed in ["/carebell", "/etc/ssl/certs/ca-certificates.crt", "/etc/passwd", "/var/lib/dpkg/status.d/libc6"] {
        assert!(names.contains(needed), "{needed}: {names:?}");
    }
    let other = names.iter().filter(|name| {
        let known = ["/carebell", "/etc", "/lib", "/lib64", "/usr", "/var"].iter().any(|top| name.starts_with(top));
        !known || name.contains("/bin") || name.contains("/sbin")
    });
    assert_eq!(other.collect::<Vec<_>>(), Vec::<&String>::new());

    // What the kubelet writes, and the test's own root of trust, as a volume would bring it.
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::copy(world.directory.path().join("push-service.pem"), root.join("etc/push.pem")).unwrap();
    let mut environment: BTreeMap<String, String> = world.environment();
    environment.insert("WEB_PUSH_CA_FILE".into(), "/etc/push.pem".into());
    environment.insert("LOG_FORMAT".into(), "text".into());
    let inside = |args: &[&str]| {
        let mut command = tokio::process::Command::new("chroot");
        command.arg(format!("--userspec={USER}")).arg("--groups=").arg(&root).arg("/carebell").args(args);
        // The path is for finding chroot.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&environment).kill_on_drop(true);
        command
    };
    let before = files(&root).len();
    let doctor = inside(&["doctor", "--offline"]).output().await.unwrap();
    assert!(
        doctor.status.success(),
        "{}{}",
        String::from_utf8_lossy(&doctor.stdout),
        String::from_utf8_lossy(&doctor.stderr)
    );

    let mut worker = inside(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(worker.stderr.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.ends_with("ready") {
                return;
            }
        }
        panic!("the worker has ended");
    };
    timeout(LIMIT, ready).await.unwrap();
    world.remind("in-the-image").await;
    world.everyone_has_it_once("in-the-image").await;
    let pid = worker.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(timeout(LIMIT, worker.wait()).await.unwrap().unwrap().code(), Some(0));
    assert_eq!(files(&root).len(), before, "it has left a file");
}
