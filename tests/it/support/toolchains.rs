//! Python and Node with the packages of `docs/producers/`: installed once into the target directory by the machine's
//! pip and npm, from the pins and checksums beside the programs.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use tokio::process::Command as AsyncCommand;

const PRODUCERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/producers");
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");

/// Python with `docs/producers/python/requirements.txt` and the generated messages.
pub struct Python {
    packages: PathBuf,
    generated: tempfile::TempDir,
}

impl Python {
    /// `None` without a recent python3 with pip.
    pub fn find() -> Option<Self> {
        let packages = python_packages(&Path::new(PRODUCERS).join("python/requirements.txt"))?;
        let generated = tempfile::tempdir().unwrap();
        let mut protoc = Command::new(packages.join("bin/protoc"));
        protoc.arg("-I").arg(PROTO);
        succeed(protoc.arg("--python_out").arg(generated.path()).arg("carebell/v1/jobs.proto"));
        Some(Self { packages, generated })
    }

    pub fn run(&self, program: &Path) -> AsyncCommand {
        let paths = std::env::join_paths([&self.packages, self.generated.path()]).unwrap();
        let mut command = AsyncCommand::new("python3");
        command.env("PYTHONPATH", paths).env("PYTHONDONTWRITEBYTECODE", "1").arg(program);
        command
    }

    pub fn producer(&self) -> AsyncCommand {
        self.run(&Path::new(PRODUCERS).join("python/remind.py"))
    }
}

/// The packages of these requirements. `None` without a recent python3 with pip.
pub fn python_packages(requirements: &Path) -> Option<PathBuf> {
    let about = "import sys, sysconfig, importlib.util as u; \
                 has_pip = any(u.find_spec(name) for name in ('pip', 'ensurepip')); \
                 print(*sys.version_info[:2], sysconfig.get_platform()) if has_pip and sys.version_info >= (3, 11) \
                 else sys.exit(1)";
    let Some(about) = answer("python3", &["-c", about]) else {
        say("there is no Python 3.11 or newer with pip: what needs it is not tested");
        return None;
    };
    let key = (about, fs::read(requirements).unwrap());
    Some(cached("python", key, |work| {
        let install = |python: &Path| {
            let mut pip = Command::new(python);
            pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-compile"]);
            pip.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement"]);
            pip.arg(requirements).arg("--target").arg(work);
            pip
        };
        if answer("python3", &["-m", "pip", "--version"]).is_some() {
            return succeed(&mut install(Path::new("python3")));
        }
        // Debian ships Python without pip, but `ensurepip` comes with its package for virtual environments.
        let venv = tempfile::tempdir().unwrap();
        succeed(Command::new("python3").args(["-m", "venv"]).arg(venv.path()));
        succeed(&mut install(&venv.path().join("bin/python")));
    }))
}

/// Node with `docs/producers/node/package-lock.json`.
pub struct Node {
    project: tempfile::TempDir,
}

impl Node {
    /// `None` without a recent node with npm.
    pub fn find() -> Option<Self> {
        let source = Path::new(PRODUCERS).join("node");
        let installed = node_packages("node", &source)?;
        // A module finds its packages by its own location.
        let project = tempfile::tempdir().unwrap();
        for name in ["package.json", "remind.mjs"] {
            fs::copy(source.join(name), project.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(installed.join("node_modules"), project.path().join("node_modules")).unwrap();
        Some(Self { project })
    }

    pub fn producer(&self) -> AsyncCommand {
        let mut command = AsyncCommand::new("node");
        command.arg(self.project.path().join("remind.mjs"));
        command
    }

    pub fn evaluate(&self, program: &str, arguments: &[&str]) -> AsyncCommand {
        let mut command = AsyncCommand::new("node");
        command.args(["--input-type=module", "--eval", program, "--"]).args(arguments).current_dir(&self.project);
        command
    }
}

/// The packages that the files in this directory name. `None` without a recent node with npm.
pub fn node_packages(name: &str, source: &Path) -> Option<PathBuf> {
    let about = "if (parseInt(process.versions.node) < 20) process.exit(1); \
                 console.log(process.version, process.platform, process.arch)";
    let (Some(about), Some(_)) = (answer("node", &["-e", about]), answer("npm", &["--version"])) else {
        say("there is no Node 20 or newer with npm: what needs it is not tested");
        return None;
    };
    let files = ["package.json", "package-lock.json"];
    let key = (about, files.map(|name| fs::read(source.join(name)).unwrap()));
    Some(cached(name, key, |work| {
        for name in files {
            fs::copy(source.join(name), work.join(name)).unwrap();
        }
        let mut npm = Command::new("npm");
        succeed(npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(work));
    }))
}

/// Bypasses the harness, which hides output of the print macros from tests that pass.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A program's output; `None` if it is missing or fails.
fn answer(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{said}{errors}", output.status);
}

/// A directory that is filled once per key, and renamed to its name only when it is complete.
fn cached(name: &str, key: impl Hash, fill: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("producers");
    let home = cache.join(format!("{name}-{:016x}", hasher.finish()));
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !home.exists() {
        // May be left by a run that was killed; the lock excludes any other.
        let work = cache.join(format!(".{name}"));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).unwrap();
        fill(&work);
        fs::rename(&work, &home).unwrap();
    }
    home
}
