//! The container image: its recipe, its last stages, and a worker in it. The program is the tests' own, since the base
//! image is unavailable here. (`helm/check` lints the recipe.)

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::support::{LIMIT, World};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const USER: &str = "65532:65532";

/// Joins continued lines.
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

/// The manifest with the recipe's empty sources.
fn empty_sources(build: &Path) {
    fs::create_dir(build).unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(Path::new(ROOT).join(file), build.join(file)).unwrap();
    }
    let stages = stages();
    let made = stages[0].iter().find_map(|(_, rest)| rest.split_once(" && cargo auditable build"));
    said(Command::new("sh").args(["-euc", made.unwrap().0]).current_dir(build));
}

/// Source changes do not rebuild dependencies.
#[test]
fn dependencies_are_built_of_the_manifest_alone() {
    let stages = stages();
    let copied = stages[0].iter().take_while(|(_, rest)| !rest.contains("cargo auditable build"));
    let copied: Vec<&str> = copied.filter(|(word, _)| word == "COPY").map(|(_, rest)| rest.as_str()).collect();
    assert_eq!(copied, ["Cargo.toml Cargo.lock ./", ".cargo .cargo"]);
    let directory = tempfile::tempdir().unwrap();
    let build = directory.path().join("build");
    empty_sources(&build);
    let metadata = ["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"];
    said(Command::new(env!("CARGO")).args(metadata).current_dir(&build));
}

/// Whoever can move a tag of the registry builds nothing here.
#[test]
fn every_base_is_named_by_its_digest() {
    let text = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let argument = text.lines().find_map(|line| line.strip_prefix("ARG BASE=")).unwrap();
    let (_, digest) = argument.split_once("@sha256:").unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
    for base in text.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        assert!(base.starts_with("${BASE} ") || base.split(' ').next() == Some("scratch"), "{base}");
    }
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
    // This form needs no shell.
    assert_eq!((of("ENTRYPOINT"), of("CMD")), (vec![r#"["/carebell"]"#], vec![r#"["run"]"#]));
    assert_eq!(of("RUN"), Vec::<&str>::new(), "the image contains nothing that could run it");
    for label in ["title", "description", "licenses", "version", "revision"] {
        assert!(of("LABEL")[0].contains(&format!("org.opencontainers.image.{label}=")), "{label}");
    }
    let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
    assert!(of("ARG").contains(&version.as_str()), "{version}");

    let build = &stages[0];
    let run: Vec<&str> = build.iter().filter(|(word, _)| word == "RUN").map(|(_, rest)| rest.as_str()).collect();
    assert!(run.iter().filter(|run| run.contains("cargo auditable build --release --locked")).count() == 2, "{run:?}");
    // Otherwise cargo keeps the build of the empty sources.
    assert!(run[1].contains("&& cargo clean --release --package carebell"), "{}", run[1]);
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

/// Output of a command that must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

struct Builder(PathBuf);

impl Builder {
    /// None if no image can be built here.
    fn find(directory: &Path) -> Option<Self> {
        let builder = Self(directory.join("images"));
        let found = builder.command(&["--version"]).output().unwrap();
        if found.status.code() == Some(127) {
            println!("no image is built: {}", String::from_utf8_lossy(&found.stderr));
            return None;
        }
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        Some(builder)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Path::new(ROOT).join("image/buildah"));
        command.arg("--root").arg(self.0.join("root")).arg("--runroot").arg(self.0.join("run"));
        command.args(args).current_dir(ROOT);
        command
    }

    /// Builds the recipe with `stage` in place of its first stage.
    fn build(&self, stage: &Path, args: &[&str]) {
        let stage = format!("build={}", stage.display());
        let build = ["build", "--quiet", "--build-context", &stage];
        said(&mut self.command(&[&build, args, &["--file", "Dockerfile", "."]].concat()));
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

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

fn only_what_is_needed_is_there(root: &Path) {
    let there: Vec<PathBuf> = files(root);
    for path in &there {
        let meta = fs::metadata(path).unwrap();
        assert!(meta.uid() == 0 && meta.permissions().mode() & 0o022 == 0, "{} can be written", path.display());
    }
    let names: BTreeSet<String> =
        there.iter().map(|path| format!("/{}", path.strip_prefix(root).unwrap().display())).collect();
    for needed in ["/carebell", "/etc/ssl/certs/ca-certificates.crt", "/etc/passwd", "/var/lib/dpkg/status.d/libc6"] {
        assert!(names.contains(needed), "{needed}: {names:?}");
    }
    let other = names.iter().filter(|name| {
        let known = ["/carebell", "/etc", "/lib", "/lib64", "/usr", "/var"].iter().any(|top| name.starts_with(top));
        !known || name.contains("/bin") || name.contains("/sbin")
    });
    assert_eq!(other.collect::<Vec<_>>(), Vec::<&String>::new());
    let run: Vec<&PathBuf> = there
        .iter()
        .filter(|path| path.is_file() && fs::metadata(path).unwrap().permissions().mode() & 0o111 != 0)
        .filter(|path| !path.file_name().unwrap().to_string_lossy().contains(".so"))
        .collect();
    assert_eq!(run, [&root.join("carebell")], "one program");
}

/// The image's root, or its intended content if no image can be built.
fn root_of_the_image(directory: &Path) -> PathBuf {
    let stage = directory.join("stage");
    let rootfs = stage.join("rootfs");
    fs::create_dir(&stage).unwrap();
    let script = Path::new(ROOT).join("image/rootfs");
    said(Command::new("sh").args([script, env!("CARGO_BIN_EXE_carebell").into(), rootfs.clone()]));
    let Some(builder) = Builder::find(directory) else { return rootfs };
    builder.build(&stage, &["--build-arg", "REVISION=0123abc", "--tag", "carebell"]);

    let image: Value =
        serde_json::from_str(&said(&mut builder.command(&["inspect", "--type", "image", "carebell"]))).unwrap();
    let config = &image["OCIv1"]["config"];
    assert_eq!(config["User"], USER);
    assert_eq!(config["ExposedPorts"], json!({ "3002/tcp": {}, "3003/tcp": {} }));
    assert_eq!((&config["Entrypoint"], &config["Cmd"]), (&json!(["/carebell"]), &json!(["run"])));
    assert_eq!(image["OCIv1"]["rootfs"]["diff_ids"].as_array().unwrap().len(), 1, "one layer, on nothing");
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap();
    assert_eq!([label("title"), label("licenses"), label("revision")], ["carebell", "Apache-2.0", "0123abc"]);
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    said(&mut builder.command(&["from", "--name", "one", "carebell"]));
    PathBuf::from(said(&mut builder.command(&["mount", "one"])))
}

/// As in a pod: user 65532, read-only root, no /tmp or shell.
#[tokio::test]
async fn a_worker_runs_in_the_image_and_writes_nothing() {
    if !is_root() || !["chroot", "unshare", "dpkg-query"].into_iter().all(is_there) {
        println!("not run: only root may change the root, and the script takes its files from Debian");
        return;
    }
    let world = World::new().await;
    let root = root_of_the_image(world.directory.path());
    only_what_is_needed_is_there(&root);

    // Files of the kubelet, and a root of trust as from a volume.
    fs::create_dir(root.join("proc")).unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::copy(world.directory.path().join("push-service.pem"), root.join("etc/push.pem")).unwrap();
    let mut environment: BTreeMap<String, String> = world.environment();
    environment.insert("WEB_PUSH_CA_FILE".into(), "/etc/push.pem".into());
    environment.insert("LOG_FORMAT".into(), "text".into());
    let enter = format!(
        "mount --bind \"$0\" \"$0\" && mount --bind /proc \"$0/proc\" && mount -o remount,bind,ro \"$0\" && \
         exec chroot --userspec={USER} --groups= \"$0\" /carebell \"$@\""
    );
    let inside = |args: &[&str], environment: &BTreeMap<String, String>| {
        let mut command = tokio::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", &enter]).arg(&root).args(args);
        // PATH is needed to find chroot.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(environment).kill_on_drop(true);
        command
    };
    let before = files(&root).len();
    let version = inside(&["--version"], &environment).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("carebell {}\n", env!("CARGO_PKG_VERSION")));
    let doctor = inside(&["doctor", "--offline"], &environment).output().await.unwrap();
    let lines = String::from_utf8_lossy(&doctor.stdout).into_owned() + &String::from_utf8_lossy(&doctor.stderr);
    assert!(doctor.status.success(), "{lines}");
    let bare = inside(&["doctor", "--offline"], &BTreeMap::new()).output().await.unwrap();
    let lines = String::from_utf8_lossy(&bare.stdout);
    assert!(bare.status.code() == Some(1) && lines.contains("DATABASE_URL is not set"), "{lines}");

    let mut worker = inside(&["run"], &environment).stderr(Stdio::piped()).spawn().unwrap();
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
    let pid = worker.id().unwrap().to_string();
    let process = |file: &str| fs::read_to_string(Path::new("/proc").join(&pid).join(file)).unwrap();
    let mounts = process("mountinfo");
    // Fields: the mount point, then its options.
    let root_mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[4] == "/").unwrap();
    assert!(root_mount[5].split(',').any(|option| option == "ro"), "{mounts}");
    assert!(process("status").contains("\nUid:\t65532\t65532\t65532\t65532\n"), "{}", process("status"));
    world.remind("in-the-image").await;
    world.everyone_has_it_once("in-the-image").await;
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(timeout(LIMIT, worker.wait()).await.unwrap().unwrap().code(), Some(0));
    assert_eq!(files(&root).len(), before, "it has left a file");
}

/// At its locked version, and nothing else.
#[test]
fn the_bill_of_materials_has_each_dependency() {
    let cargo = || Command::new(env!("CARGO"));
    if !cargo().args(["cyclonedx", "--version"]).output().unwrap().status.success() {
        println!("not run: cargo-cyclonedx is not here (`.ci/run` installs it)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let build = directory.path().join("build");
    empty_sources(&build);
    // The command is the recipe's own.
    assert!(stages()[0].iter().any(|(_, rest)| rest.contains("&& cargo cyclonedx --format json &&")));
    said(cargo().args(["cyclonedx", "--format", "json"]).current_dir(&build));
    let mut file = build.join("carebell.cdx.json");
    if let Some(builder) = Some(()).filter(|()| is_root()).and_then(|()| Builder::find(directory.path())) {
        let output = directory.path().join("sbom");
        builder.build(directory.path(), &["--target", "sbom", "--output", output.to_str().unwrap()]);
        assert_eq!(files(&output), [output.join("carebell.cdx.json")]);
        file = output.join("carebell.cdx.json");
    }

    let bill: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let product = &bill["metadata"]["component"];
    assert_eq!((&product["name"], &product["version"]), (&json!("carebell"), &json!(env!("CARGO_PKG_VERSION"))));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let components = bill["components"].as_array().unwrap();
    let listed: BTreeSet<(String, String)> =
        components.iter().map(|component| (text(component, "name"), text(component, "version"))).collect();
    let lock: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).unwrap().parse().unwrap();
    let locked: BTreeSet<(String, String)> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["name"].as_str().unwrap().to_owned(), package["version"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(listed.difference(&locked).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
    let manifest: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap().parse().unwrap();
    let names: BTreeSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    let direct = manifest["dependencies"].as_table().unwrap();
    for name in direct.keys() {
        assert!(names.contains(name.as_str()), "{name}");
    }
    // The program and its tests share some libraries.
    let of_others: BTreeSet<&str> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| package["name"].as_str() != Some("carebell"))
        .flat_map(|package| package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten())
        .filter_map(|dependency| dependency.as_str()?.split(' ').next())
        .collect();
    let mut for_tests: Vec<&String> = manifest["dev-dependencies"].as_table().unwrap().keys().collect();
    for_tests.retain(|name| !direct.contains_key(*name) && !of_others.contains(name.as_str()));
    assert!(for_tests.iter().any(|name| *name == "criterion"), "{for_tests:?}");
    for name in for_tests {
        assert!(!names.contains(name.as_str()), "{name} is for tests only");
    }
    for component in components {
        assert!(component["hashes"][0]["content"].is_string() && component["purl"].is_string(), "{component}");
    }
}
