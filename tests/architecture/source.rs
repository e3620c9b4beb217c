//! The production code of a source file, parsed: the paths that it uses, without comments and test code.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// A parsed file below `src`.
pub(crate) struct Source {
    /// Relative to `src`.
    pub(crate) path: PathBuf,
    /// The module path: `["model", "load"]`; `["main"]` for the program.
    pub(crate) module: Vec<String>,
    file: syn::File,
}

/// A path in the code, such as `crate::model::load`.
#[derive(Debug)]
pub(crate) struct UsedPath {
    /// The line, from 1.
    pub(crate) line: usize,
    /// The module that contains the path.
    pub(crate) module: Vec<String>,
    /// Whether the path begins with `crate`, `ortolan`, `self` or `super`, so that the segments begin at the crate root.
    pub(crate) is_local: bool,
    pub(crate) segments: Vec<String>,
    /// The name that a `use` gives to the path.
    pub(crate) imported_as: Option<String>,
    /// Whether a `pub use` exports the path.
    pub(crate) is_exported: bool,
}

impl UsedPath {
    /// The top-level module that a local path leads to.
    pub(crate) fn layer(&self) -> Option<&str> {
        let first = self.segments.first().filter(|_| self.is_local);
        first.map(String::as_str)
    }

    /// The first segment of any other path: perhaps an external crate.
    pub(crate) fn external_crate(&self) -> Option<&str> {
        let first = self.segments.first().filter(|_| !self.is_local);
        first.map(String::as_str)
    }
}

impl Source {
    /// Parses a file and removes its test code.
    pub(crate) fn parse(path: PathBuf, module: Vec<String>, text: &str) -> Self {
        let mut file =
            syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        RemoveTests.visit_file_mut(&mut file);
        Self { path, module, file }
    }

    /// The top-level module that the file belongs to.
    pub(crate) fn layer(&self) -> &str {
        &self.module[0]
    }

    /// Returns all paths of the production code.
    pub(crate) fn paths(&self) -> Vec<UsedPath> {
        let mut visitor = Paths {
            module: self.module.clone(),
            paths: Vec::new(),
        };
        visitor.visit_file(&self.file);
        visitor.paths
    }

    /// Whether `word` occurs in the production code, also as a part of a longer word.
    pub(crate) fn has_word(&self, word: &str) -> bool {
        let code = self
            .file
            .to_token_stream()
            .to_string()
            .replace(" :: ", "::");
        code.contains(word)
    }
}

/// Returns the files of the library, found by their `mod` items, and the program.
pub(crate) fn production_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let library = syn::parse_file(&fs::read_to_string(root.join("lib.rs")).unwrap()).unwrap();
    add_modules(&root, &root, &[], &library.items, &mut sources);
    let main = fs::read_to_string(root.join("main.rs")).unwrap();
    sources.push(Source::parse(
        "main.rs".into(),
        vec!["main".to_owned()],
        &main,
    ));
    assert!(sources.len() > 100, "only {} sources found", sources.len());
    sources
}

/// Adds the files of the `mod` items of a module, whose own modules are in `folder`.
fn add_modules(
    root: &Path,
    folder: &Path,
    module: &[String],
    items: &[Item],
    sources: &mut Vec<Source>,
) {
    for item in items {
        let Item::Mod(item) = item else { continue };
        let name = item.ident.to_string();
        let module = [module, std::slice::from_ref(&name)].concat();
        let folder = folder.join(&name);
        if let Some((_, items)) = &item.content {
            add_modules(root, &folder, &module, items, sources);
            continue;
        }
        let path = [folder.with_extension("rs"), folder.join("mod.rs")]
            .into_iter()
            .find(|path| path.exists());
        let path = path.unwrap_or_else(|| panic!("{}.rs not found", folder.display()));
        let text = fs::read_to_string(&path).unwrap();
        let source = Source::parse(
            path.strip_prefix(root).unwrap().to_owned(),
            module.clone(),
            &text,
        );
        add_modules(root, &folder, &module, &source.file.items, sources);
        sources.push(source);
    }
}

/// Removes comments and code that is compiled only for tests.
struct RemoveTests;

impl VisitMut for RemoveTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| !is_test(attributes(item)));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, item: &mut ItemMod) {
        if let Some((_, items)) = &mut item.content {
            items.retain(|item| !is_test(attributes(item)));
        }
        visit_mut::visit_item_mod_mut(self, item);
    }

    fn visit_item_impl_mut(&mut self, item: &mut syn::ItemImpl) {
        item.items.retain(|item| match item {
            syn::ImplItem::Fn(function) => !is_test(&function.attrs),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, item);
    }

    fn visit_attributes_mut(&mut self, attributes: &mut Vec<Attribute>) {
        attributes.retain(|attribute| !attribute.path().is_ident("doc"));
    }
}

/// Whether an item has the attribute `#[cfg(test)]`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Collects the paths that a module uses.
struct Paths {
    /// Path of the visited module, against which `self` and `super` are resolved.
    module: Vec<String>,
    paths: Vec<UsedPath>,
}

impl Paths {
    fn add(&mut self, segments: &[String], span: Span) -> &mut UsedPath {
        let parents = segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        let (is_local, prefix, skipped) = match segments[0].as_str() {
            "crate" | "ortolan" => (true, 0, 1),
            "self" => (true, self.module.len(), 1),
            "super" => (true, self.module.len().saturating_sub(parents), parents),
            _ => (false, 0, 0),
        };
        self.paths.push(UsedPath {
            line: span.start().line,
            module: self.module.clone(),
            is_local,
            segments: [&self.module[..prefix], &segments[skipped..]].concat(),
            imported_as: None,
            is_exported: false,
        });
        self.paths.last_mut().unwrap()
    }

    fn add_use_tree(&mut self, prefix: &[String], tree: &UseTree, is_exported: bool) {
        // `a::{self}` imports `a`.
        let extended = |ident: &syn::Ident| match ident == "self" && !prefix.is_empty() {
            true => prefix.to_vec(),
            false => [prefix, &[ident.to_string()]].concat(),
        };
        let (segments, name, span) = match tree {
            UseTree::Path(path) => {
                return self.add_use_tree(&extended(&path.ident), &path.tree, is_exported);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use_tree(prefix, tree, is_exported);
                }
                return;
            }
            UseTree::Name(name) => {
                let segments = extended(&name.ident);
                let last = segments.last().cloned();
                (segments, last, name.ident.span())
            }
            UseTree::Rename(name) => {
                let new_name = Some(name.rename.to_string());
                (extended(&name.ident), new_name, name.ident.span())
            }
            UseTree::Glob(glob) => (prefix.to_vec(), None, glob.star_token.spans[0]),
        };
        let path = self.add(&segments, span);
        path.imported_as = name;
        path.is_exported = is_exported;
    }

    /// Adds the paths in the arguments of a macro, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut start = Span::call_site();
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string())
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                other => {
                    if path.len() > 1 {
                        self.add(&path, start);
                    }
                    path.clear();
                    match other {
                        TokenTree::Ident(ident) => {
                            path.push(ident.to_string());
                            start = ident.span();
                        }
                        TokenTree::Group(group) => self.add_tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        if path.len() > 1 {
            self.add(&path, start);
        }
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let is_exported = !matches!(item.vis, Visibility::Inherited);
        self.add_use_tree(&[], &item.tree, is_exported);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<String> = path
                .segments
                .iter()
                .map(|segment| segment.ident.to_string())
                .collect();
            self.add(&segments, path.segments[0].ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'a Macro) {
        self.add_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
