//! The rooms and who may name whom (see `src/lib.rs`), checked on parsed paths, not by grep. Code under `#[cfg(test)]` is free.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, Meta, UseTree,
    visit::{self, Visit},
};

/// Which rooms a room may name besides itself.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("audio", &[]),
    ("telemetry", &[]),
    ("net", &[]),
    ("call", &["audio"]),
    ("asterisk", &["call", "audio", "telemetry"]),
    ("agent", &["call", "audio", "telemetry", "net"]),
    ("session", &["call", "audio", "telemetry"]),
    ("recording", &["call", "audio", "telemetry"]),
    ("webhook", &["call", "telemetry", "net"]),
    ("api", &["session", "webhook", "call", "telemetry", "net"]),
    // and of each of these only its settings
    ("config", &["audio", "call", "asterisk", "agent", "session", "recording", "webhook", "api", "telemetry", "net"]),
];

#[test]
fn no_room_names_a_room_it_may_not() {
    let allowed: BTreeMap<_, _> = MAY_NAME.iter().copied().collect();
    let mut faults = Vec::new();
    let mut checked = 0;
    for file in sources(Path::new("src")) {
        let Some(room) = room_of(&file) else { continue };
        let Some(may) = allowed.get(room.as_str()) else { continue };
        checked += 1;
        for named in rooms_named(&fs::read_to_string(&file).unwrap()) {
            if named != room && !may.contains(&named.as_str()) && is_room(&named) {
                faults.push(format!("{}: {room} names {named}", file.display()));
            }
        }
    }
    assert!(checked > 30, "only {checked} files were found: is this run from the package's root?");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_check_sees_what_it_must() {
    let text = "
        use crate::{webhook::Config, call::{self, Call}};
        fn f() -> crate::api::State { crate::agent::connect(|| super::x()) }
        mod inner { use hark::session::Session; }
        #[cfg(test)] mod tests { use crate::app::App; }
        #[cfg(test)] use crate::cli::Args;
    ";
    let named: Vec<_> = rooms_named(text).into_iter().collect();
    assert_eq!(named, ["agent", "api", "call", "session", "webhook"]);
}

fn is_room(name: &str) -> bool {
    ["app", "cli"].contains(&name) || MAY_NAME.iter().any(|(room, _)| *room == name)
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// `src/call/turn.rs` and `src/call.rs` are both of the room `call`. Files called `tests.rs` are included under `#[cfg(test)]`.
fn room_of(file: &Path) -> Option<String> {
    if file.file_stem()? == "tests" {
        return None;
    }
    let first = file.strip_prefix("src").ok()?.components().next()?;
    Some(Path::new(first.as_os_str()).file_stem()?.to_str()?.to_owned())
}

fn rooms_named(text: &str) -> BTreeSet<String> {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(text).unwrap());
    paths.0
}

#[derive(Default)]
struct Paths(BTreeSet<String>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_test_only) {
            visit::visit_item(self, item);
        }
    }

    fn visit_use_tree(&mut self, tree: &'ast UseTree) {
        if let UseTree::Path(path) = tree
            && (path.ident == "crate" || path.ident == "hark")
        {
            self.first_segments(&path.tree);
        }
        visit::visit_use_tree(self, tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate" || first.ident == "hark")
            && let Some(room) = segments.next()
        {
            self.0.insert(room.ident.to_string());
        }
        visit::visit_path(self, path);
    }
}

impl Paths {
    fn first_segments(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => drop(self.0.insert(path.ident.to_string())),
            UseTree::Name(name) => drop(self.0.insert(name.ident.to_string())),
            UseTree::Rename(rename) => drop(self.0.insert(rename.ident.to_string())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.first_segments(tree)),
            UseTree::Glob(_) => {}
        }
    }
}

fn is_test_only(attribute: &Attribute) -> bool {
    matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
}
