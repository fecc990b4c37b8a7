//! Reads Go structs: the JSON name of each field, its protobuf number, and whether absence and zero differ.
//!
//! Start at [`Go::of_definition`]. Only what generated API packages write is understood: one field a line, tags in
//! backquotes, markers in comments. Anything else in a type that is needed is an error, not a guess.
//!
//! Not here: type checking, build tags, anything outside the packages of API types.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where the packages of definition names lie.
const ROOTS: &[(&str, &str)] = &[
    ("io.k8s.api.", "api/"),
    ("io.k8s.apimachinery.", "apimachinery/"),
    ("io.k8s.apiextensions-apiserver.", "apiextensions-apiserver/"),
    ("io.k8s.kube-aggregator.", "kube-aggregator/"),
];

/// What a Go struct adds to a property.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The protobuf number, behind those of inlined messages: `2.7`.
    pub(crate) number: String,
    /// Empty, or a blank and one letter.
    pub(crate) presence: &'static str,
    /// The list, or a map's value, is a named list: a message of its own in protobuf.
    pub(crate) boxed: bool,
    /// The default, as JSON.
    pub(crate) default: Option<String>,
}

/// The Go sources.
pub(crate) struct Go {
    root: PathBuf,
    packages: RefCell<BTreeMap<String, Rc<Package>>>,
}

#[derive(Default)]
struct Package {
    structs: BTreeMap<String, Vec<Line>>,
    /// Named types that are no structs, and what they are.
    names: BTreeMap<String, String>,
    constants: BTreeMap<String, String>,
    imports: BTreeMap<String, String>,
    proto: String,
}

struct Line {
    name: String,
    ty: String,
    tag: String,
    markers: Vec<String>,
}

impl Go {
    pub(crate) fn read(root: &Path) -> Result<Go, String> {
        match root.join("api/core/v1/types.go").is_file() {
            true => Ok(Go { root: root.to_owned(), packages: RefCell::default() }),
            false => Err(format!("{} holds no api/core/v1/types.go", root.display())),
        }
    }

    /// The fields of a definition's struct, by JSON name.
    pub(crate) fn of_definition(&self, name: &str) -> Result<BTreeMap<String, Shape>, String> {
        let (package, ty) = name.rsplit_once('.').ok_or("a definition name without dots")?;
        let folder = ROOTS
            .iter()
            .find_map(|(prefix, root)| {
                package.strip_prefix(prefix).map(|rest| format!("{root}{}", rest.replace('.', "/")))
            })
            .ok_or("a definition of an unknown package")?;
        let mut found = BTreeMap::new();
        self.collect(&folder, ty, "", &mut found)?;
        Ok(found)
    }

    fn collect(&self, folder: &str, ty: &str, via: &str, found: &mut BTreeMap<String, Shape>) -> Result<(), String> {
        let package = self.package(folder)?;
        let lines = package.structs.get(ty).ok_or_else(|| format!("no Go struct {ty} in {folder}"))?;
        for line in lines {
            let json = tag(&line.tag, "json").unwrap_or_default();
            let (name, options) = json.split_once(',').unwrap_or((json, ""));
            let number = tag(&line.tag, "protobuf").and_then(|proto| proto.split(',').nth(1)).unwrap_or("0");
            if name == "-" {
                continue;
            }
            if options.contains("inline") || (name.is_empty() && line.name.is_empty()) {
                let (folder, ty) = self.locate(folder, &package, line.ty.trim_start_matches('*'))?;
                self.collect(&folder, &ty, &format!("{via}{number}."), found)?;
                continue;
            }
            let default = line.markers.iter().find_map(|marker| marker.strip_prefix("+default="));
            // TypeMeta travels in the envelope: what is inlined without a number has no place in the message.
            let absent = number == "0" || via.split('.').any(|number| number == "0");
            let shape = Shape {
                number: if absent { "0".to_owned() } else { format!("{via}{number}") },
                presence: self.presence(folder, &package, &line.ty, options)?,
                boxed: self.is_boxed(folder, &package, &line.ty)?,
                default: default.map(|text| self.default(&package, text)).transpose()?,
            };
            found.insert(name.to_owned(), shape);
        }
        Ok(())
    }

    fn presence(&self, folder: &str, package: &Package, ty: &str, options: &str) -> Result<&'static str, String> {
        let omit = options.split(',').any(|option| option == "omitempty");
        let (_, base) = self.base(folder, package, ty)?;
        Ok(match base.as_str() {
            _ if base.starts_with(['*', '[']) || base.starts_with("map[") || base.contains("interface") => match omit {
                true => "",
                false => " n",
            },
            "struct" if options.split(',').any(|option| option == "omitzero") => " e",
            "struct" => " !",
            _ if omit => " z",
            _ => " !",
        })
    }

    /// A named list is a message of its own in protobuf, both as a field and as a map's value.
    fn is_boxed(&self, folder: &str, package: &Package, ty: &str) -> Result<bool, String> {
        if let Some(value) = ty.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return self.is_boxed(folder, package, value.1);
        }
        let (folder, name) = match ty.starts_with(['*', '[']) || is_builtin(ty) {
            true => return Ok(false),
            false => self.locate(folder, package, ty)?,
        };
        let package = self.package(&folder)?;
        let is_list = package.names.get(&name).is_some_and(|base| base.starts_with("[]"));
        Ok(is_list && package.proto.contains(&format!("message {name} {{")))
    }

    /// What a type is once names are followed: a built-in, `struct`, or an expression with `*`, `[` or `map[` first.
    fn base(&self, folder: &str, package: &Package, ty: &str) -> Result<(String, String), String> {
        if ty.starts_with(['*', '[']) || ty.starts_with("map[") || is_builtin(ty) {
            return Ok((folder.to_owned(), ty.to_owned()));
        }
        let (folder, name) = self.locate(folder, package, ty)?;
        let package = self.package(&folder)?;
        match package.names.get(&name) {
            Some(next) => self.base(&folder, &package, next),
            None if package.structs.contains_key(&name) => Ok((folder, "struct".to_owned())),
            None => Err(format!("no Go type {name} in {folder}")),
        }
    }

    /// The package and the name of a possibly qualified type.
    fn locate(&self, folder: &str, package: &Package, ty: &str) -> Result<(String, String), String> {
        let Some((alias, name)) = ty.split_once('.') else { return Ok((folder.to_owned(), ty.to_owned())) };
        let import = package.imports.get(alias).ok_or_else(|| format!("{folder} imports nothing as {alias}"))?;
        Ok((import.strip_prefix("k8s.io/").unwrap_or(import).to_owned(), name.to_owned()))
    }

    fn default(&self, package: &Package, text: &str) -> Result<String, String> {
        let value = match text.strip_prefix("ref(").and_then(|rest| rest.strip_suffix(')')) {
            Some(constant) => package.constants.get(constant).ok_or_else(|| format!("no Go constant {constant}"))?,
            None => text,
        };
        let value: serde_json::Value =
            serde_json::from_str(value).map_err(|error| format!("the default {value} is no JSON: {error}"))?;
        Ok(value.to_string())
    }

    fn package(&self, folder: &str) -> Result<Rc<Package>, String> {
        if let Some(package) = self.packages.borrow().get(folder) {
            return Ok(Rc::clone(package));
        }
        let package = Rc::new(read_package(&self.root.join(folder))?);
        self.packages.borrow_mut().insert(folder.to_owned(), Rc::clone(&package));
        Ok(package)
    }
}

fn is_builtin(ty: &str) -> bool {
    matches!(ty, "string" | "bool" | "int" | "int32" | "int64" | "uint64" | "float64" | "interface{}" | "byte")
}

/// The value of one key in a struct tag.
fn tag<'a>(tags: &'a str, key: &str) -> Option<&'a str> {
    let start = tags.find(&format!("{key}:\""))? + key.len() + 2;
    tags[start..].split('"').next()
}

fn read_package(folder: &Path) -> Result<Package, String> {
    let failed = |error: std::io::Error| format!("failed to read {}: {error}", folder.display());
    let mut package = Package::default();
    let mut files: Vec<PathBuf> = fs::read_dir(folder).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let generated = name.starts_with("zz_") || name.contains("_test") || name.contains("generated");
        if name == "generated.proto" {
            package.proto = fs::read_to_string(&file).map_err(failed)?;
        } else if name.ends_with(".go") && !generated {
            read_file(&fs::read_to_string(&file).map_err(failed)?, &mut package);
        }
    }
    Ok(package)
}

fn read_file(text: &str, package: &mut Package) {
    let mut lines = text.lines();
    let mut in_imports = false;
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["import", "("] => in_imports = true,
            [")"] => in_imports = false,
            ["import", path] => import(package, None, path),
            [path] if in_imports => import(package, None, path),
            [alias, path] if in_imports => import(package, Some(alias), path),
            ["type", name, "struct", "{"] => {
                let fields = read_struct(&mut lines);
                package.structs.insert((*name).to_owned(), fields);
            }
            ["type", name, "struct{}"] | ["type", name, "struct", "{}"] => {
                package.structs.insert((*name).to_owned(), Vec::new());
            }
            ["type", name, "interface", ..] => {
                package.names.insert((*name).to_owned(), "interface{}".to_owned());
            }
            ["type", name, "=", base, ..] | ["type", name, base, ..] => {
                package.names.insert((*name).to_owned(), (*base).to_owned());
            }
            [name, _, "=", value, ..] if value.starts_with('"') && line.starts_with('\t') => {
                package.constants.insert((*name).to_owned(), (*value).to_owned());
            }
            _ => {}
        }
    }
}

fn import(package: &mut Package, alias: Option<&str>, path: &str) {
    let path = path.trim_matches('"');
    let alias = alias.unwrap_or_else(|| path.rsplit('/').next().unwrap_or(path));
    package.imports.insert(alias.to_owned(), path.to_owned());
}

fn read_struct<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Line> {
    let mut fields = Vec::new();
    let mut markers = Vec::new();
    let mut in_comment = false;
    for line in lines {
        let line = line.trim();
        if line == "}" {
            break;
        }
        in_comment |= line.starts_with("/*");
        if in_comment {
            in_comment = !line.ends_with("*/");
            continue;
        }
        if let Some(comment) = line.strip_prefix("//") {
            markers.extend(Some(comment.trim().to_owned()).filter(|text| text.starts_with('+')));
            continue;
        }
        let (code, tag) =
            line.split_once('`').map_or((line, ""), |(code, rest)| (code, rest.split('`').next().unwrap_or("")));
        let markers = std::mem::take(&mut markers);
        match code.split_whitespace().collect::<Vec<_>>().as_slice() {
            [ty] => fields.push(Line { name: String::new(), ty: (*ty).to_owned(), tag: tag.to_owned(), markers }),
            [name, ty, ..] => {
                fields.push(Line { name: (*name).to_owned(), ty: (*ty).to_owned(), tag: tag.to_owned(), markers });
            }
            [] => {}
        }
    }
    fields
}
