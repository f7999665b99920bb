//! Compiles `proto/` with protox (no protoc needed), and lists the files of `migrations/`, `streams/` and
//! `src/templates/`.

use std::{env, fmt::Write, fs, path::Path, path::PathBuf};

use prost_build::Config;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    compile_messages(&out)?;
    list_migrations(&root.join("migrations"), &out.join("migrations.rs"))?;
    list_streams(&root.join("streams"), &out.join("streams.rs"))?;
    list_templates(&root.join("src/templates"), &out.join("templates.rs"))?;
    Ok(())
}

fn compile_messages(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files_of(Path::new("proto/carebell/v1"), "proto")?, ["proto"])?;
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let mut config = Config::new();
    for message in messages(&descriptors) {
        config.type_attribute(&message, "#[derive(::prost_reflect::ReflectMessage)]");
        config.type_attribute(&message, format!("#[prost_reflect(message_name = \"{message}\")]"));
        config.type_attribute(&message, "#[prost_reflect(descriptor_pool = \"crate::wire::DESCRIPTORS\")]");
    }
    config.compile_fds(descriptors)?;
    Ok(())
}

fn messages(descriptors: &prost_types::FileDescriptorSet) -> Vec<String> {
    let ours = descriptors.file.iter().filter(|file| file.package() == "carebell.v1");
    ours.flat_map(|file| file.message_type.iter().map(|message| format!("carebell.v1.{}", message.name()))).collect()
}

/// Writes `&[(1, "carebell", "CREATE TABLE …"), …]` from files named `<number>_<name>.sql`. sqlx's own macro would build
/// sqlx, tokio and rustls a second time, for the compiler.
fn list_migrations(dir: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=migrations");
    let mut entries = String::new();
    for path in files_of(dir, "sql")? {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some((number, name)) = stem.split_once('_') else { continue };
        let (number, name) = (number.parse::<i64>()?, name.replace('_', " "));
        let text = fs::read_to_string(&path)?;
        writeln!(entries, "    ({number}, {name:?}, {text:?}),")?;
    }
    fs::write(to, format!("&[\n{entries}]\n"))?;
    Ok(())
}

/// Writes `&[("JOBS.json", "{…}"), …]`: texts rather than paths, so that clones can share a build directory.
fn list_streams(dir: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=streams");
    let mut entries = String::new();
    for path in files_of(dir, "json")? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path)?;
        writeln!(entries, "    ({name:?}, {text:?}),")?;
    }
    fs::write(to, format!("&[\n{entries}]\n"))?;
    Ok(())
}

/// Writes `&[("en", "reminder.shift.txt", "title: …"), …]`.
fn list_templates(dir: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/templates");
    let mut locales: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    locales.retain(|path| path.is_dir());
    locales.sort();
    let mut entries = String::new();
    for directory in locales {
        let locale = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in files_of(&directory, "txt")? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            writeln!(entries, "    ({locale:?}, {name:?}, {text:?}),")?;
        }
    }
    fs::write(to, format!("&[\n{entries}]\n"))?;
    Ok(())
}

fn files_of(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, std::io::Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
