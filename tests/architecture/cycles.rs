//! Import cycles between the modules of the crate.
//!
//! The rule is the same at every level of the module tree: among the children of a module, the uses have no cycle. A use
//! in a descendant of a child counts as a use in the child, and a use of a descendant as a use of the child. A re-export
//! hides nothing: what counts is the module that declares the used item.
//!
//! A module and its descendants may use each other. They are one unit to the rest of the crate: the parent has the types
//! and functions that its children share, and calls the children; a child also implements methods of its parent's types.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use crate::source::{Source, UsedPath};

type Module = Vec<String>;

/// A use of an item in one child of a module by another child.
struct Use<'a> {
    from: Module,
    to: Module,
    /// The module that declares the item: `to` or a descendant of it.
    declared_in: Module,
    file: &'a Path,
    line: usize,
}

/// Returns the uses that are part of an import cycle, each with the shortest cycle. If a file uses a module several
/// times, returns only the first use.
pub(crate) fn import_cycles(sources: &[Source]) -> Vec<String> {
    let uses = uses(sources);
    let mut graph: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for Use { from, to, .. } in &uses {
        graph.entry(from).or_default().insert(to);
    }
    let mut reported = BTreeSet::new();
    let first_uses = uses
        .iter()
        .filter(|found| reported.insert((found.file, &found.declared_in)));
    let in_cycles = first_uses.filter_map(|found| {
        let way_back = shortest_way(&graph, &found.to, &found.from)?;
        let cycle = [&found.from].into_iter().chain(way_back);
        let cycle: Vec<_> = cycle.map(|module| module.join("::")).collect();
        let (file, declared_in) = (found.file.display(), found.declared_in.join("::"));
        let cycle = cycle.join(" -> ");
        Some(format!("{file}:{} uses {declared_in}: {cycle}", found.line))
    });
    in_cycles.collect()
}

/// Returns the modules on the shortest way from `start` to `end`, including both; `None` if there is no way.
fn shortest_way<'a>(
    graph: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
    start: &'a Module,
    end: &'a Module,
) -> Option<Vec<&'a Module>> {
    // For each visited module, the module before it.
    let mut previous = BTreeMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for next in graph.get(module).into_iter().flatten() {
            previous.entry(*next).or_insert_with(|| {
                queue.push_back(next);
                Some(module)
            });
        }
    }
    let end = previous.get_key_value(end).map(|(module, _)| *module)?;
    let mut way: Vec<_> = std::iter::successors(Some(end), |module| previous[module]).collect();
    way.reverse();
    Some(way)
}

/// Returns the uses between the children of each module.
fn uses(sources: &[Source]) -> Vec<Use<'_>> {
    let paths: Vec<_> = sources
        .iter()
        .flat_map(|source| source.paths().into_iter().map(move |path| (source, path)))
        .collect();
    let names = Names::new(sources, paths.iter().map(|(_, path)| path));
    let mut uses = Vec::new();
    for (source, path) in &paths {
        let Some(declared_in) = names.declaring_module(path) else {
            continue;
        };
        let pairs = path.module.iter().zip(&declared_in);
        let common = pairs.take_while(|(own, other)| own == other).count();
        if let (Some(from), Some(to)) = (path.module.get(..=common), declared_in.get(..=common)) {
            uses.push(Use {
                from: from.to_vec(),
                to: to.to_vec(),
                declared_in,
                file: &source.path,
                line: path.line,
            });
        }
    }
    uses
}

/// The names by which code can refer to modules and imported items.
struct Names<'a> {
    modules: BTreeSet<Module>,
    /// The imports of each module, by name.
    imports: BTreeMap<(&'a [String], &'a str), &'a UsedPath>,
}

/// What a path leads to.
enum Target {
    Module(Module),
    /// An item that this module declares, or a part of it, such as a variant.
    ItemIn(Module),
}

impl<'a> Names<'a> {
    fn new(sources: &[Source], paths: impl Iterator<Item = &'a UsedPath>) -> Self {
        let mut names = Self {
            modules: sources.iter().map(|source| source.module.clone()).collect(),
            imports: BTreeMap::new(),
        };
        for path in paths {
            if let Some(name) = &path.imported_as {
                names.imports.insert((&path.module, name), path);
            }
        }
        names
    }

    /// Returns the module that a path leads to, or that declares its item; `None` for paths into other crates.
    fn declaring_module(&self, path: &UsedPath) -> Option<Module> {
        match self.target(path)? {
            Target::Module(module) | Target::ItemIn(module) => Some(module),
        }
    }

    fn target(&self, path: &UsedPath) -> Option<Target> {
        let (start, names) = match path.is_local {
            true => (Target::Module(Vec::new()), path.segments.as_slice()),
            false => {
                let (first, names) = path.segments.split_first()?;
                // `use serde::{self, Serialize}` declares the name `serde`, but does not refer to it.
                let declares_first = path.imported_as.as_ref() == Some(first);
                let start = match declares_first {
                    true => self.child(&path.module, first)?,
                    false => self.named(&path.module, first)?,
                };
                (start, names)
            }
        };
        let target = names.iter().fold(start, |target, name| match target {
            Target::Module(module) => self.named(&module, name).unwrap_or(Target::ItemIn(module)),
            item @ Target::ItemIn(_) => item,
        });
        Some(target)
    }

    /// Returns what a name in a module refers to: a child module or an import.
    fn named(&self, module: &[String], name: &str) -> Option<Target> {
        let import = || self.target(self.imports.get(&(module, name))?);
        self.child(module, name).or_else(import)
    }

    fn child(&self, module: &[String], name: &str) -> Option<Target> {
        let child = [module, &[name.to_owned()]].concat();
        self.modules
            .contains(&child)
            .then_some(Target::Module(child))
    }
}
