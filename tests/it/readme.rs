//! `README.md`: its shell blocks run as a reader runs them, its producers publish, its picture is of this version.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command as StdCommand, Stdio},
    sync::{Arc, Mutex},
};

use carebell::dev::guard::{self, PrivateDir};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::support::{LIMIT, Node, Python, programs};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

fn blocks(language: &str) -> Vec<String> {
    let fence = format!("\n```{language}\n");
    readme().split(&fence).skip(1).map(|part| part.split("\n```").next().unwrap().to_owned()).collect()
}

fn program(language: &str) -> String {
    let blocks = blocks(language);
    assert_eq!(blocks.len(), 1, "README.md has one program in {language}");
    blocks.concat()
}

#[test]
fn the_readme_is_at_most_160_lines() {
    let lines = readme().lines().count();
    assert!(lines <= 160, "{lines} lines");
}

/// A `PATH` whose stand-in for cargo installs the tests' program, and a second terminal that keeps its environment
/// between blocks.
struct Reader {
    home: PrivateDir,
}

impl Reader {
    fn new() -> Self {
        // Open to the user that Postgres runs as, unlike other temporary directories.
        let home = guard::private_dir().unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let installed = bin.join("carebell");
        let stand_in = format!(
            "#!/bin/sh\n[ \"$*\" = 'install --locked --path .' ] || {{ echo \"cargo $*: unexpected\"; exit 1; }}\n\
             exec ln -s '{}' '{}'\n",
            env!("CARGO_BIN_EXE_carebell"),
            installed.display()
        );
        fs::write(bin.join("cargo"), stand_in).unwrap();
        fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn bash(&self, script: &str) -> Command {
        let script = format!("export PATH=\"{}:$PATH\"\n{script}", self.path("bin").display());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &script]).env("TMPDIR", self.home.path());
        bash.current_dir(ROOT).stdin(Stdio::null()).kill_on_drop(true);
        bash
    }

    /// In the second terminal. Returns the output.
    async fn run(&self, block: &str) -> String {
        let state = self.path("environment");
        let script = format!("[ ! -e {state} ] || . {state}\n{block}\nexport -p > {state}", state = state.display());
        let output = timeout(LIMIT, self.bash(&script).output()).await;
        let output = output.unwrap_or_else(|_| panic!("it takes longer than {LIMIT:?}:\n{block}")).unwrap();
        let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{} after this block of README.md:\n{block}\n\n{said}{errors}", output.status);
        said
    }

    async fn done(&self, job: &str) {
        self.run(&format!("until carebell jobs show {job} | grep -q 'done at'; do sleep 0.1; done")).await;
    }
}

/// The first terminal: a process group, killed when dropped.
struct Dev {
    process: Child,
    said: Arc<Mutex<String>>,
}

impl Dev {
    /// Waits until `carebell dev` names its environment file.
    async fn start(reader: &Reader, block: &str) -> Self {
        let mut bash = reader.bash(block);
        let mut process = bash.process_group(0).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let (invited, invitation) = tokio::sync::oneshot::channel();
        let mut invited = Some(invited);
        let heard = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.trim_start().starts_with(". /") {
                    invited.take().map(|invited| invited.send(()));
                }
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let dev = Self { process, said };
        let invitation = timeout(LIMIT, invitation).await;
        assert!(matches!(invitation, Ok(Ok(()))), "no invitation from\n{block}\n\n{}", dev.said());
        dev
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn signal(&self, signal: &str) {
        let Some(group) = self.process.id() else { return };
        StdCommand::new("kill").args([signal, "--", &format!("-{group}")]).status().unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.signal("-KILL");
    }
}

#[tokio::test]
async fn every_block_of_the_readme_runs_while_carebell_dev_runs() {
    programs().await;
    let reader = Reader::new();
    let blocks_of_shell = blocks("sh");
    let (first, others) = blocks_of_shell.split_first().unwrap();
    assert!(first.contains("carebell dev") && others.len() >= 2);
    let mut dev = Dev::start(&reader, first).await;
    for block in others {
        reader.run(block).await;
    }
    reader.done("hello-1").await;

    let url = reader.run("echo \"$NATS_URL\"").await;
    if let Some(python) = Python::find() {
        fs::write(reader.path("notify.py"), program("python")).unwrap();
        publishes(python.run(&reader.path("notify.py")), &url).await;
        reader.done("visit-17-moved-1").await;
    }
    if let Some(node) = Node::find() {
        publishes(node.evaluate(&program("js"), &[]), &url).await;
        reader.done("visit-18-moved-1").await;
    }

    let said = dev.said();
    let strange: Vec<String> = shown_steps().into_iter().filter(|step| !said.contains(step)).collect();
    assert_eq!(strange, [""; 0], "docs/dev.svg shows them; run docs/picture/make");

    dev.signal("-INT");
    timeout(LIMIT, dev.process.wait()).await.expect("Ctrl-C ends `carebell dev`").unwrap();
    timeout(LIMIT, async {
        while fs::read_dir(reader.home.path()).unwrap().any(|entry| is_of_dev(&entry.unwrap().path())) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("`carebell dev` leaves nothing behind");
}

fn is_of_dev(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("carebell-"))
}

async fn publishes(mut program: Command, url: &str) {
    let output = program.env("NATS_URL", url.trim()).stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{program:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn shown_steps() -> BTreeSet<String> {
    let picture = fs::read_to_string(Path::new(ROOT).join("docs/dev.svg")).unwrap();
    let steps: BTreeSet<String> = [r#"<tspan class="step">"#, r#"<tspan class="good">"#]
        .into_iter()
        .flat_map(|tag| picture.split(tag).skip(1))
        .map(|rest| rest.split('<').next().unwrap().trim().to_owned())
        .filter(|step| !step.starts_with('$'))
        .collect();
    assert!(steps.len() > 10, "{steps:?}");
    steps
}
