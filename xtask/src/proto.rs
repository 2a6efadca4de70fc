//! `cargo xtask proto`: Rust from the .proto files.
//!
//! Besides what prost-build writes, each field gets serde attributes, so that `icecore show --json`
//! prints what CRIU's `crit decode` does: absent and empty fields left out, enums by name, bytes in
//! base64.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost_build::Config;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Writes `proto/gen`.
pub(crate) fn write() -> Result<()> {
    for (name, text) in generate()? {
        fs::write(source().join("gen").join(name), text)?;
    }
    Ok(())
}

/// Fails when `proto/gen` is not what [`write`] would write.
pub(crate) fn check() -> Result<()> {
    for (name, text) in generate()? {
        let path = source().join("gen").join(name);
        if fs::read_to_string(&path).unwrap_or_default() != text {
            return Err(format!("{} is out of date: run cargo xtask proto", path.display()).into());
        }
    }
    Ok(())
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")
}

/// The generated files: name and text.
fn generate() -> Result<Vec<(String, String)>> {
    let mut files: Vec<PathBuf> = fs::read_dir(source())?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "proto"));
    files.sort();
    let set = protox::compile(&files, [source()])?;

    let mut config = Config::new();
    config.message_attribute(".", "#[derive(::serde::Serialize)]");
    for file in &set.file {
        let package = format!(".{}", file.package());
        for message in &file.message_type {
            attributes(&mut config, &package, message);
        }
    }
    let out = std::env::temp_dir().join(format!("icecore-proto-{}", std::process::id()));
    fs::create_dir_all(&out)?;
    config.out_dir(&out).compile_fds(set.clone())?;

    let mut generated = Vec::new();
    for package in ["criu", "icecore"] {
        let name = format!("{package}.rs");
        let mut text = fs::read_to_string(out.join(&name))?;
        text.push_str(&names(&set, package));
        generated.push((name, text));
    }
    fs::remove_dir_all(&out)?;
    Ok(generated)
}

/// The serde attributes of all fields of a message and of those inside it.
fn attributes(config: &mut Config, parent: &str, message: &DescriptorProto) {
    let path = format!("{parent}.{}", message.name());
    for field in &message.field {
        let mut words = Vec::new();
        let optional = match field.label() {
            Label::Repeated => {
                words.push("skip_serializing_if = \"Vec::is_empty\"".to_owned());
                false
            }
            Label::Required => false,
            Label::Optional if package_of(parent) == "icecore" => {
                field.proto3_optional() || field.r#type() == Type::Message
            }
            Label::Optional => true,
        };
        if optional {
            words.push("skip_serializing_if = \"Option::is_none\"".to_owned());
        }
        if let Some(function) = function(field) {
            let optional = if optional { "optional_" } else { "" };
            words.push(format!(
                "serialize_with = \"crate::image::json::{optional}{function}\""
            ));
        }
        if !words.is_empty() {
            let attribute = format!("#[serde({})]", words.join(", "));
            config.field_attribute(format!("{path}.{}", field.name()), attribute);
        }
    }
    for inner in &message.nested_type {
        attributes(config, &path, inner);
    }
}

/// The function in `image::json` that writes a field, if serde's own does not do.
fn function(field: &FieldDescriptorProto) -> Option<String> {
    match field.r#type() {
        Type::Bytes => Some("bytes".to_owned()),
        Type::Enum => Some(format!("name::<{}, _>", rust_path(field.type_name()))),
        _ => None,
    }
}

/// Lets `image::json` name the values of every enum.
fn names(set: &FileDescriptorSet, package: &str) -> String {
    let mut out = String::new();
    for file in set.file.iter().filter(|f| f.package() == package) {
        let top = file
            .enum_type
            .iter()
            .map(|e| format!(".{package}.{}", e.name()));
        let inside = file.message_type.iter().flat_map(|m| {
            m.enum_type
                .iter()
                .map(move |e| format!(".{package}.{}.{}", m.name(), e.name()))
        });
        for path in top.chain(inside) {
            let path = rust_path(&path);
            out.push_str(&format!(
                "impl crate::image::json::Named for {path} {{\n    fn name(&self) -> &'static str \
                 {{\n        self.as_str_name()\n    }}\n}}\n"
            ));
        }
    }
    out
}

/// `.criu.core_entry.march` → `core_entry::March`.
fn rust_path(proto: &str) -> String {
    let mut words: Vec<String> = proto.split('.').skip(2).map(str::to_owned).collect();
    if let Some(last) = words.last_mut() {
        *last = last.split('_').map(upper_first).collect();
    }
    words.join("::")
}

fn upper_first(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn package_of(path: &str) -> &str {
    path.split('.').nth(1).unwrap_or_default()
}
