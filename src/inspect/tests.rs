//! Views of random trees of layers against the naive model.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::chain::model::{Made, SPACE, TASK, Tree, scratch, tree};
use crate::error::Kind;
use crate::image::Place as Stands;
use crate::units::{PAGE_SIZE, PageRange};

/// All bytes of the task as of `tip`, page by page.
fn bytes(tree: &Tree, tip: usize) -> Vec<u8> {
    (0..SPACE)
        .flat_map(|page| match tree.owner(tip, page) {
            Some(owner) => Tree::bytes(owner, page),
            None => vec![0; PAGE_SIZE as usize],
        })
        .collect()
}

fn written(view: &View, range: PageRange) -> (Vec<u8>, Catted) {
    let mut out = Vec::new();
    let catted = cat(&view.space(TASK).unwrap(), range, &mut out).unwrap();
    (out, catted)
}

fn places(view: &View, pattern: &Pattern) -> Vec<u64> {
    let mut all = Vec::new();
    search(view, pattern, &mut |found| {
        all.push(found.addr);
        Ok(true)
    })
    .unwrap();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn memory_reads_as_the_model_has_it(tree in tree(1..6), from in 0u64..2000, len in 1u64..200_000) {
        let root = scratch();
        tree.write(root.path());
        for tip in 0..tree.layers.len() {
            let view = View::open(Tree::dir(root.path(), tip)).unwrap();
            let all = bytes(&tree, tip);
            let end = (from + len).min(all.len() as u64);
            let (out, catted) = written(&view, PageRange::new(from, end));
            prop_assert_eq!(&out[..], &all[from as usize..end as usize]);
            prop_assert!(catted.absent.is_empty());
        }
    }

    #[test]
    fn pages_differ_exactly_where_the_model_does(tree in tree(2..6), a: prop::sample::Index, b: prop::sample::Index) {
        let root = scratch();
        tree.write(root.path());
        let (a, b) = (a.index(tree.layers.len()), b.index(tree.layers.len()));
        let open = |layer| View::open(Tree::dir(root.path(), layer)).unwrap();
        let found = diff(&open(a), &open(b), &mut |_| {}).unwrap();
        let mut naive: [Vec<u64>; 3] = Default::default();
        let mut bytes = 0;
        for page in 0..SPACE {
            let (x, y) = (tree.owner(a, page), tree.owner(b, page));
            let kind = match (x, y) {
                (Some(x), Some(y)) if Tree::bytes(x, page) != Tree::bytes(y, page) => 0,
                (None, Some(_)) => 1,
                (Some(_), None) => 2,
                _ => continue,
            };
            naive[kind].push(page as u64 * PAGE_SIZE);
            bytes += if kind == 0 { PAGE_SIZE } else { 0 };
        }
        let Some(task) = found.tasks.first() else {
            prop_assert!(naive.iter().all(Vec::is_empty));
            return Ok(());
        };
        let pages = &task.pages[0];
        let each = |set: &crate::chain::Ranges| -> Vec<u64> {
            set.iter().flat_map(|r| (r.start..r.end).step_by(4096)).collect()
        };
        prop_assert_eq!([each(&pages.changed), each(&pages.appeared), each(&pages.gone)], naive);
        prop_assert_eq!(pages.bytes, bytes);
    }

    #[test]
    fn a_search_finds_what_is_there_across_pages_and_layers(
        tree in tree(1..5), layer in 0usize..5, page in 0usize..SPACE - 1, tail in 1usize..9,
    ) {
        let root = scratch();
        tree.write(root.path());
        let tip = tree.layers.len() - 1;
        let view = View::open(Tree::dir(root.path(), tip)).unwrap();
        let all = bytes(&tree, tip);
        // The end of one page and the beginning of the next, of some layers.
        let (a, b) = (Tree::bytes(layer % (tip + 1), page), Tree::bytes(tip, page + 1));
        let needle: Vec<u8> = a[..tail].iter().chain(&b[..3]).copied().collect();
        let mut naive = Vec::new();
        let mut at = 0;
        while let Some(hit) = all[at..].windows(needle.len()).position(|w| w == needle) {
            naive.push((at + hit) as u64);
            at += hit + needle.len();
        }
        prop_assert_eq!(places(&view, &Pattern::bytes(&needle).unwrap()), naive);
    }
}

/// A layer of one task with these bytes from address 0 on.
fn made(root: &Path, contents: &[u8]) -> View {
    let pages = (contents.len() as u64).div_ceil(PAGE_SIZE);
    let dir = Made::new("1", None, &[(0, pages, Stands::Present)]).write(root);
    let mut padded = contents.to_vec();
    padded.resize((pages * PAGE_SIZE) as usize, 0);
    std::fs::write(dir.join("pages-1.img"), padded).unwrap();
    View::open(dir).unwrap()
}

#[test]
fn a_pattern_that_matches_nothing_everywhere_is_refused() {
    for text in ["a*", "", "x|"] {
        assert_eq!(Pattern::regex(text).unwrap_err().kind(), Kind::Usage);
    }
    assert_eq!(Pattern::regex("(").unwrap_err().kind(), Kind::Usage);
    assert_eq!(Pattern::text("").unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_regular_expression_sees_bytes_and_what_stands_before() {
    let root = scratch();
    let mut contents = vec![0xff; 64 * 4096];
    contents[4090..4102].copy_from_slice(b"user=alice; ");
    contents[9000..9005].copy_from_slice(b"xuser");
    let view = made(root.path(), &contents);
    assert_eq!(places(&view, &Pattern::regex(r"\buser").unwrap()), [4090]);
    assert_eq!(places(&view, &Pattern::text("user").unwrap()), [4090, 9001]);
    let two = Pattern::regex(r"user=\w+;").unwrap();
    assert_eq!(places(&view, &two), [4090]);
}

#[test]
fn places_without_bytes_are_named_and_read_as_zeros() {
    let root = scratch();
    let view = made(root.path(), &[7; 8192]);
    let (out, catted) = written(&view, PageRange::new(63 * PAGE_SIZE, 65 * PAGE_SIZE));
    assert_eq!(out, vec![0; 2 * PAGE_SIZE as usize]);
    let [part] = catted.absent[..] else {
        panic!("{catted:?}")
    };
    assert_eq!(part.source, Source::Unmapped);
    let space = view.space(TASK).unwrap();
    let nowhere = PageRange::new(65 * PAGE_SIZE, 66 * PAGE_SIZE);
    let error = cat(&space, nowhere, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(space.range("0x10+20").unwrap(), PageRange::new(0x10, 0x30));
    assert_eq!(space.range("1000-2000").unwrap().pages(), 1);
    assert_eq!(space.range("1234").unwrap().pages(), 64);
    assert_eq!(space.range("[heap]").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn pages_that_dedup_punched_are_not_taken_for_zeros() {
    let root = scratch();
    made(root.path(), &[7; 4 * 4096]);
    let dir = root.path().join("1");
    let pages = std::fs::OpenOptions::new()
        .write(true)
        .open(dir.join("pages-1.img"))
        .unwrap();
    let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
        | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&pages, flags, 4096, 8192).unwrap();
    let view = View::open(dir).unwrap();
    let (out, catted) = written(&view, PageRange::new(0, 4 * PAGE_SIZE));
    assert_eq!(out[3 * 4096..], [7; 4096]);
    assert_eq!(catted.absent.len(), 1);
    assert_eq!(catted.absent[0].range, PageRange::new(4096, 3 * 4096));
    assert_eq!(catted.absent[0].source, Source::Freed(0));
    assert_eq!(
        places(&view, &Pattern::bytes(&[0, 0]).unwrap()).len(),
        2 * 4096 / 2
    );
}
