//! Verifying layers: whether every byte is still what was written, and if not, what is affected.
//!
//! The structure of each layer is checked with its whole stack, as before a restore; in full, every
//! file is read and compared with its digest. A layer without digests (one of CRIU's that was not
//! adopted) can only be checked for structure, and is named. Only what a restore could meet is an
//! obstacle to a restore; here, damage of any byte of any layer is a finding.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::holes::unmarked;
use super::names::{mappings, named};
use super::stack::pagemap;
use super::{Catalog, Ranges, Stack, check};
use crate::error::{Error, Kind, Result};
use crate::event::{Cancel, Event, Reporter};
use crate::image::{Images, PagemapId, PagesDigest, Place, SIDECAR, Sidecar, is_content};
use crate::store::{Lock, is_being_made};
use crate::units::{PAGE_SIZE, PageRange};

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// The structure: small images, sizes, holes.
    Quick,
    /// Every byte.
    Full,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The layer.
    pub layer: PathBuf,
    /// The file in it, where one file is wrong.
    pub file: Option<String>,
    /// The bytes in the file, where they are known.
    pub bytes: Option<PageRange>,
    /// The pagemap whose pages these are.
    pub pagemap: Option<PagemapId>,
    /// Their addresses.
    pub addresses: Option<PageRange>,
    /// The mapping that they are part of.
    pub mapping: Option<String>,
    /// What is wrong, in one line.
    pub what: String,
    /// The next thing to try.
    pub hint: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// How much was looked at.
    pub depth: Depth,
    /// The layers that were looked at.
    pub layers: Vec<PathBuf>,
    /// Layers without digests: only their structure could be checked.
    pub without_digests: Vec<PathBuf>,
    /// Layers that dedup made unrestorable: what is left of them was compared.
    pub consumed: Vec<PathBuf>,
    /// Files that were compared with their digests.
    pub files: u64,
    /// Bytes that were compared with their digests.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Verifies the layer in `dir` with all its ancestors, or every layer below `dir` when it is none; there,
/// layers that somebody is just making are left out.
///
/// # Errors
/// When there is no layer, or somebody changes one. Damage is a finding, no error.
pub fn verify(
    dir: &Path,
    depth: Depth,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Verified> {
    // The first look tells where the layers are, the second what they are while nobody changes them.
    let folders = |catalog: &Catalog| -> BTreeSet<PathBuf> {
        let above = catalog.layers().iter().filter_map(|l| l.dir.parent());
        above.map(Path::to_path_buf).collect()
    };
    let _lock = Lock::shared(&folders(&Catalog::scan(dir)?))?;
    let catalog = Catalog::scan(dir)?;
    let own = catalog.find(dir);
    let wanted: Vec<usize> = match own {
        Some(own) => std::iter::successors(Some(own), |layer| catalog.parent(*layer)).collect(),
        None => (0..catalog.layers().len())
            .filter(|layer| !is_being_made(&catalog.layers()[*layer].dir))
            .collect(),
    };
    if wanted.is_empty() {
        return Err(catalog.no_layer(dir));
    }
    let mut found = Verified {
        depth,
        layers: wanted
            .iter()
            .map(|n| catalog.layers()[*n].dir.clone())
            .collect(),
        without_digests: Vec::new(),
        consumed: Vec::new(),
        files: 0,
        bytes: 0,
        findings: Vec::new(),
    };
    for (done, dir) in found.layers.clone().into_iter().enumerate() {
        cancel.check()?;
        let is_tip = own.is_none() || done == 0;
        found.layer(&dir, depth, is_tip);
        // Who makes a layer on top of these may begin and finish it any time: then it has another name now.
        if own.is_none() && is_being_made(&dir) || !dir.exists() {
            found.forget(&dir);
        }
        let (done, total) = (done as u64 + 1, wanted.len() as u64);
        reporter.report(Event::Progress { done, total });
    }
    Ok(found)
}

impl Verified {
    /// True when nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Verifies one layer; `is_tip` when its stack is not checked with a layer above. (Damage of
    /// what only the layer itself needs is found by its digests, if it has any.)
    fn layer(&mut self, dir: &Path, depth: Depth, is_tip: bool) {
        let sidecar = match Images::open(dir).and_then(|images| Sidecar::read(&images)) {
            Ok(sidecar) => sidecar.unwrap_or_default(),
            Err(error) => {
                let name = dir.join(SIDECAR).is_file().then(|| SIDECAR.to_owned());
                self.finding(dir, name, &error);
                return;
            }
        };
        if sidecar.consumed.is_some() {
            // It is known not to be restorable; its stack is checked where it is needed.
            self.consumed.push(dir.to_path_buf());
        } else if is_tip || !sidecar.has_digests() {
            match Stack::open(dir) {
                Ok(stack) => self.structure(&stack),
                Err(error) => self.finding(dir, None, &error),
            }
        }
        if !sidecar.has_digests() {
            self.without_digests.push(dir.to_path_buf());
        } else if let Err(error) = self.sizes(dir, &sidecar) {
            self.finding(dir, None, &error);
        } else if depth == Depth::Full
            && let Err(error) = self.contents(dir, &sidecar)
        {
            self.finding(dir, None, &error);
        }
    }

    /// As if the layer had never been seen.
    fn forget(&mut self, dir: &Path) {
        self.layers.retain(|layer| layer != dir);
        self.without_digests.retain(|layer| layer != dir);
        self.findings.retain(|finding| finding.layer != dir);
    }

    fn structure(&mut self, stack: &Stack) {
        let dir = stack.tip().dir();
        for obstacle in check(stack).obstacles {
            // A pre-dump is what it is; nothing is wrong with it.
            if obstacle.kind != Kind::Unsupported {
                self.push(dir, None, obstacle.what, &obstacle.hint);
            }
        }
    }

    /// The files that should be there, with the lengths they should have, and no others.
    fn sizes(&mut self, dir: &Path, sidecar: &Sidecar) -> Result<()> {
        let mut expected: BTreeSet<String> = BTreeSet::new();
        let files = sidecar.files.iter().map(|f| (f.name.clone(), f.bytes));
        let pages = sidecar.pages.iter().map(|p| (pages_name(p), p.bytes));
        for (name, bytes) in files.chain(pages) {
            let len = dir.join(&name).metadata().map(|meta| meta.len());
            match len {
                Ok(len) if len == bytes => {}
                Ok(len) => {
                    let what = format!("{name} has {len} bytes instead of {bytes}");
                    self.push(dir, Some(name.clone()), what, DAMAGED);
                }
                Err(e) => {
                    let error = Error::path("read", dir.join(&name), e);
                    self.push(dir, Some(name.clone()), error.one_line(), DAMAGED);
                }
            }
            expected.insert(name);
        }
        for name in Images::open(dir)?.names()? {
            if is_content(&name) && !expected.contains(&name) {
                let what = format!("{name} is no part of the layer: it was not there at first");
                let hint = "CRIU would read it; move it away, or use a copy of the layer";
                self.push(dir, Some(name), what, hint);
            }
        }
        Ok(())
    }

    /// Every byte.
    fn contents(&mut self, dir: &Path, sidecar: &Sidecar) -> Result<()> {
        for file in &sidecar.files {
            // A wrong length was named already.
            let length = dir.join(&file.name).metadata().map(|meta| meta.len());
            if length.is_ok_and(|len| len == file.bytes) && !file.matches(dir)? {
                let what = format!("{} is not what was written", file.name);
                self.push(dir, Some(file.name.clone()), what, DAMAGED);
            }
            self.files += 1;
            self.bytes += file.bytes;
        }
        let images = Images::open(dir)?;
        for digest in sidecar.pages.iter().filter(|p| p.is_known()) {
            let Ok(file) = images.pages_file(digest.pages_id) else {
                continue; // named already
            };
            let blocks = digest.damaged(&file);
            self.files += 1;
            self.bytes += digest.bytes;
            if !blocks.is_empty() {
                let places = Places::of(&images, digest.pages_id);
                for block in blocks {
                    let (start, len) = digest.block(block);
                    let bytes = PageRange::new(start, start + len as u64);
                    let holes = unmarked(&file, bytes, digest).unwrap_or_default();
                    self.damaged(dir, digest, bytes, &holes, &places);
                }
            }
        }
        Ok(())
    }

    /// A finding for each part of a damaged block that is in one mapping.
    fn damaged(
        &mut self,
        dir: &Path,
        digest: &PagesDigest,
        bytes: PageRange,
        holes: &Ranges,
        places: &Places,
    ) {
        let name = pages_name(digest);
        let what = match holes.pages() {
            0 => format!("{name}: bytes {bytes} are not what was written"),
            gone => format!(
                "{name}: {gone} pages of bytes {bytes} are gone, without a mark (criu dedup?)"
            ),
        };
        let mut parts = places.within(bytes).peekable();
        if parts.peek().is_none() {
            self.push(dir, Some(name), what, DAMAGED);
            return;
        }
        for (id, bytes, addresses, mapping) in parts {
            self.findings.push(Finding {
                layer: dir.to_path_buf(),
                file: Some(name.clone()),
                bytes: Some(bytes),
                pagemap: Some(id),
                addresses: Some(addresses),
                mapping: Some(mapping.to_owned()),
                what: format!("{what}: {addresses} of {} ({mapping})", id.file_name()),
                hint: DAMAGED.to_owned(),
            });
        }
    }

    fn finding(&mut self, dir: &Path, file: Option<String>, error: &Error) {
        let hint = error.next_step().unwrap_or(DAMAGED).to_owned();
        self.push(dir, file, error.one_line(), &hint);
    }

    fn push(&mut self, layer: &Path, file: Option<String>, what: String, hint: &str) {
        // What is wrong with a parent is met again in every layer above.
        if self
            .findings
            .iter()
            .any(|f| f.what == what && (f.layer == layer || file.is_none()))
        {
            return;
        }
        self.findings.push(Finding {
            layer: layer.to_path_buf(),
            file,
            bytes: None,
            pagemap: None,
            addresses: None,
            mapping: None,
            what,
            hint: hint.to_owned(),
        });
    }
}

const DAMAGED: &str =
    "Take the file from a copy of the layer, or use a layer that does not need it";

fn pages_name(digest: &PagesDigest) -> String {
    format!("pages-{}.img", digest.pages_id)
}

/// What the bytes of a pages file are in memory: for each part its pagemap, bytes, addresses and
/// mapping. As far as the images can be read: they may be what is damaged.
struct Places(Vec<(PagemapId, PageRange, PageRange, String)>);

impl Places {
    fn of(images: &Images, pages_id: u32) -> Self {
        let mut parts = Vec::new();
        for id in images.pagemaps().unwrap_or_default() {
            let Ok(Some(map)) = pagemap(images, id) else {
                continue;
            };
            if map.pages_id != pages_id {
                continue;
            }
            let mappings = mappings(images, id);
            let mut offset = 0;
            for run in map.runs.iter().filter(|run| run.place == Place::Present) {
                for (addresses, name) in named(&mappings, run.range()) {
                    let start = offset + (addresses.start - run.start);
                    let bytes = PageRange::new(start, start + addresses.bytes());
                    parts.push((id, bytes, addresses, name));
                }
                offset += run.pages * PAGE_SIZE;
            }
        }
        Self(parts)
    }

    fn within(
        &self,
        bytes: PageRange,
    ) -> impl Iterator<Item = (PagemapId, PageRange, PageRange, &str)> {
        self.0.iter().filter_map(move |(id, file, at, name)| {
            let part = file.intersect(bytes);
            let start = at.start + (part.start.saturating_sub(file.start));
            let addresses = PageRange::new(start, start + part.bytes());
            (!part.is_empty()).then_some((*id, part, addresses, name.as_str()))
        })
    }
}
