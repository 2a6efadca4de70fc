//! Tests of whole layers: a golden one made by CRIU, and damaged and strange ones.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;
use tempfile::TempDir;

use super::proto::*;
use super::*;
use crate::error::Kind;

/// A layer that CRIU 4.1 made; see the README beside it.
fn golden() -> Images {
    Images::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/criu-4.1")).unwrap()
}

/// A directory with one file.
fn with_file(name: &str, data: &[u8]) -> (TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), data).unwrap();
    let images = Images::open(dir.path()).unwrap();
    (dir, images)
}

fn image(name: &str, records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let records: Vec<_> = records
        .iter()
        .map(|(bytes, extra)| Record {
            bytes: bytes.clone(),
            extra: extra.clone(),
        })
        .collect();
    frame::join(name, &records).unwrap()
}

#[test]
fn every_file_of_criu_is_known_and_whole() {
    let files = text::list(&golden()).unwrap();
    assert_eq!(files.len(), 14);
    for file in files {
        assert!(file.kind.is_some(), "{file:?}");
        assert!(file.error.is_none(), "{file:?}");
    }
}

#[test]
fn every_file_of_criu_has_text_and_json_without_unknown_fields() {
    let images = golden();
    for name in images.names().unwrap() {
        let text = text::text(&images, &name).unwrap();
        assert!(!text.contains("not known"), "{text}");
        if !kinds::is_raw(&name) {
            assert!(text::json(&images, &name).unwrap()["entries"].is_array());
        }
    }
}

#[test]
fn a_rewrite_of_criu_s_files_changes_no_byte() {
    let from = golden();
    let root = tempfile::tempdir().unwrap();
    let writer = LayerWriter::create(root.path().join("copy")).unwrap();
    for name in from.names().unwrap() {
        if kinds::is_raw(&name) {
            writer.copy(&from, &name).unwrap();
        } else {
            writer
                .records(&name, &from.records(&name).unwrap())
                .unwrap();
        }
    }
    writer.commit().unwrap();
    for name in from.names().unwrap() {
        let copy = fs::read(root.path().join("copy").join(&name)).unwrap();
        assert!(copy == fs::read(from.dir().join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn messages_of_criu_decode_to_what_the_program_did() {
    let images = golden();
    let tree: PstreeEntry = images.one("pstree.img").unwrap();
    let core: CoreEntry = images.one(&format!("core-{}.img", tree.pid)).unwrap();
    assert_eq!(core.mtype, core_entry::March::X8664 as i32);
    assert_eq!(core.tc.unwrap().sigactions.len(), 62);
    let files: Vec<FileEntry> = images.all("files.img").unwrap();
    assert!(
        files
            .iter()
            .any(|f| f.efd.as_ref().is_some_and(|e| e.counter == 7))
    );
    let pipes = images.records("pipes-data.img").unwrap();
    assert_eq!(pipes[0].extra, b"golden");
    let stats: StatsEntry = images.one("stats-dump").unwrap();
    assert_eq!(stats.dump.unwrap().pages_written, 8);
}

#[test]
fn the_pagemap_of_criu_explains_its_pages_file() {
    let images = golden();
    let [id] = images.pagemaps().unwrap()[..] else {
        panic!()
    };
    let map = images.pagemap(id).unwrap().unwrap();
    assert_eq!(map.stored_bytes(), 8 * crate::units::PAGE_SIZE);
    assert_eq!(
        (map.runs[1].start, map.runs[1].pages, map.runs[1].lazy),
        (0x40_3000, 3, true)
    );
    let bytes = images
        .pages_file(map.pages_id)
        .unwrap()
        .metadata()
        .unwrap()
        .len();
    assert_eq!(bytes, map.stored_bytes());
}

#[test]
fn pages_that_the_pagemap_does_not_explain_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let writer = LayerWriter::create(root.path().join("layer")).unwrap();
    let (start, pages, place) = (0x1000, 1, Place::Present);
    let map = Pagemap {
        pages_id: 1,
        runs: vec![Run {
            start,
            pages,
            place,
            lazy: false,
        }],
    };
    let id = PagemapId::Task(1);
    writer.pagemap(id, &map).unwrap();
    writer.pages(1).unwrap().append(&[0; 4097]).unwrap();
    let images = Images::open(writer.partial()).unwrap();
    assert_eq!(images.pagemap(id).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn json_is_what_crit_decodes() {
    let images = golden();
    let tree: PstreeEntry = images.one("pstree.img").unwrap();
    let map = text::json(&images, &format!("pagemap-{}.img", tree.pid)).unwrap();
    assert_eq!(map["magic"], "PAGEMAP");
    assert_eq!(map["entries"][0], json!({ "pages_id": 1 }));
    assert_eq!(
        map["entries"][1].to_string(),
        r#"{"vaddr":4198400,"compat_nr_pages":1,"flags":4}"#
    );
    let pipes = text::json(&images, "pipes-data.img").unwrap();
    assert_eq!(pipes["entries"][0]["extra"], "Z29sZGVu");
    assert_eq!(
        text::json(&images, "files.img").unwrap()["entries"][0]["type"],
        "REG"
    );
}

#[test]
fn text_names_flags_and_shows_the_bytes_behind_records() {
    let images = golden();
    let tree: PstreeEntry = images.one("pstree.img").unwrap();
    let map = text::text(&images, &format!("pagemap-{}.img", tree.pid)).unwrap();
    assert!(
        map.contains("vaddr 0x403000  compat_nr_pages 3  flags lazy|present"),
        "{map}"
    );
    let pipes = text::text(&images, "pipes-data.img").unwrap();
    assert!(pipes.contains("followed by 6 bytes: \"golden\""), "{pipes}");
}

#[test]
fn a_file_that_is_not_there_is_not_found() {
    let error = text::text(&golden(), "core-1.img").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(golden().records("core-1.img").unwrap(), []);
}

#[test]
fn a_file_with_another_name_is_known_by_its_magic() {
    let data = fs::read(golden().dir().join("pstree.img")).unwrap();
    let (_dir, images) = with_file("saved", &data);
    assert_eq!(text::json(&images, "saved").unwrap()["magic"], "PSTREE");
}

#[test]
fn the_magic_of_another_kind_is_refused() {
    let data = fs::read(golden().dir().join("pstree.img")).unwrap();
    let (_dir, images) = with_file("files.img", &data);
    assert_eq!(
        images.records("files.img").unwrap_err().kind(),
        Kind::Corrupt
    );
}

#[test]
fn a_huge_length_is_an_error() {
    let mut data = image("pstree.img", &[]);
    data.extend(u32::MAX.to_le_bytes());
    let (_dir, images) = with_file("pstree.img", &data);
    assert_eq!(
        images.records("pstree.img").unwrap_err().kind(),
        Kind::Corrupt
    );
}

#[test]
fn the_bytes_behind_records_are_found_for_every_kind_that_has_them() {
    let shm = |in_pagemaps| IpcShmEntry {
        size: 5,
        in_pagemaps,
        ..IpcShmEntry::default()
    };
    let message = IpcMsg { mtype: 1, msize: 3 }.encode_to_vec();
    let mut queue = u32::try_from(message.len()).unwrap().to_le_bytes().to_vec();
    queue.extend(&message);
    queue.extend([0; 8]);
    let twice = [queue.clone(), queue].concat();
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        (
            "fifo-data.img",
            PipeDataEntry {
                bytes: 3,
                ..PipeDataEntry::default()
            }
            .encode_to_vec(),
            vec![1; 3],
        ),
        (
            "sk-queues.img",
            SkPacketEntry {
                length: 2,
                ..SkPacketEntry::default()
            }
            .encode_to_vec(),
            vec![1; 2],
        ),
        (
            "tcp-stream-1f.img",
            TcpStreamEntry {
                inq_len: 2,
                outq_len: 3,
                ..TcpStreamEntry::default()
            }
            .encode_to_vec(),
            vec![1; 5],
        ),
        (
            "bpfmap-data.img",
            BpfmapDataEntry {
                keys_bytes: 4,
                values_bytes: 8,
                ..BpfmapDataEntry::default()
            }
            .encode_to_vec(),
            vec![1; 12],
        ),
        (
            "ipcns-sem-9.img",
            IpcSemEntry {
                nsems: 5,
                ..IpcSemEntry::default()
            }
            .encode_to_vec(),
            vec![1; 16],
        ),
        ("ipcns-shm-9.img", shm(None).encode_to_vec(), vec![1; 8]),
        ("ipcns-shm-9.img", shm(Some(true)).encode_to_vec(), vec![]),
        (
            "ipcns-msg-9.img",
            IpcMsgEntry {
                qnum: 2,
                ..IpcMsgEntry::default()
            }
            .encode_to_vec(),
            twice,
        ),
    ];
    for (name, bytes, extra) in cases {
        let data = image(
            name,
            &[(bytes.clone(), extra.clone()), (bytes, extra.clone())],
        );
        let (_dir, images) = with_file(name, &data);
        let records = images.records(name).unwrap();
        assert_eq!(records.len(), 2, "{name}");
        assert!(records.iter().all(|r| r.extra == extra), "{name}");
        text::json(&images, name).unwrap();
    }
}

#[test]
fn a_ghost_file_is_one_blob_or_chunks() {
    let name = "ghost-file-1a.img";
    let head = GhostFileEntry {
        mode: 0o600,
        ..GhostFileEntry::default()
    };
    let data = image(name, &[(head.encode_to_vec(), b"contents".to_vec())]);
    let (_dir, images) = with_file(name, &data);
    assert_eq!(images.records(name).unwrap()[0].extra, b"contents");

    let head = GhostFileEntry {
        chunks: Some(true),
        ..head
    }
    .encode_to_vec();
    let chunk = GhostChunkEntry { len: 4, off: 8192 }.encode_to_vec();
    let data = image(
        name,
        &[
            (head, vec![]),
            (chunk.clone(), vec![7; 4]),
            (chunk, vec![8; 4]),
        ],
    );
    let (_dir, images) = with_file(name, &data);
    let records = images.records(name).unwrap();
    assert_eq!(records[2].extra, [8; 4]);
    assert_eq!(
        text::json(&images, name).unwrap()["entries"][2]["off"],
        8192
    );
}

#[test]
fn files_that_nobody_knows_are_copied_byte_for_byte() {
    let (_dir, images) = with_file("checkpoint.json", b"\0anything");
    let root = tempfile::tempdir().unwrap();
    let writer = LayerWriter::create(root.path().join("copy")).unwrap();
    writer.copy(&images, "checkpoint.json").unwrap();
    writer.commit().unwrap();
    assert_eq!(
        fs::read(root.path().join("copy/checkpoint.json")).unwrap(),
        b"\0anything"
    );
    assert!(text::list(&images).unwrap()[0].kind.is_none());
}

#[test]
fn an_image_without_records_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let writer = LayerWriter::create(root.path().join("layer")).unwrap();
    writer.all("files.img", &[] as &[FileEntry]).unwrap();
    assert!(!writer.partial().join("files.img").exists());
}

/// Fields of numbers that no message of CRIU's uses, nor ours (from 1000).
fn unknown_fields() -> impl Strategy<Value = Vec<u8>> {
    let field = (5000..6000_u32, prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec(field, 1..4).prop_map(|fields| {
        let mut out = Vec::new();
        for (number, bytes) in fields {
            prost::encoding::bytes::encode(number, &bytes, &mut out);
        }
        out
    })
}

proptest! {
    #[test]
    fn fields_that_nobody_knows_survive_a_rewrite(
        unknown in prop::collection::vec(unknown_fields(), 1..5),
        blob in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let entry = PipeDataEntry { bytes: u32::try_from(blob.len()).unwrap(), ..Default::default() };
        let records: Vec<_> = unknown
            .iter()
            .map(|unknown| ([entry.encode_to_vec(), unknown.clone()].concat(), blob.clone()))
            .collect();
        let data = image("pipes-data.img", &records);
        let (_dir, images) = with_file("pipes-data.img", &data);
        let records = images.records("pipes-data.img").unwrap();
        prop_assert_eq!(records.len(), unknown.len());
        prop_assert_eq!(frame::join("pipes-data.img", &records).unwrap(), data);
        let text = text::text(&images, "pipes-data.img").unwrap();
        let said = format!("and {} bytes of fields that are not known", unknown[0].len());
        prop_assert!(text.contains(&said), "{}", text);
    }

    #[test]
    fn a_damaged_file_gives_a_value_or_an_error_and_never_a_panic(
        file: prop::sample::Index,
        at: prop::sample::Index,
        bit in 0..8_u32,
        cut: Option<prop::sample::Index>,
    ) {
        let golden = golden();
        let mut names = golden.names().unwrap();
        names.retain(|name| !kinds::is_raw(name));
        let name = file.get(&names);
        let mut data = fs::read(golden.dir().join(name)).unwrap();
        let at = at.index(data.len());
        data[at] ^= 1 << bit;
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        let (_dir, images) = with_file(name, &data);
        drop(text::text(&images, name));
        drop(text::json(&images, name));
        drop(images.optional::<CoreEntry>(name));
        text::list_text(&images).unwrap();
        for id in images.pagemaps().unwrap() {
            drop(images.pagemap(id));
        }
    }
}
