//! What goes in comes out, through every command a user has.

use wmall_tests::{Cluster, bytes, wmall, wmall_fails};

#[test]
fn files_of_all_sizes_come_back_and_every_command_tells_of_them() {
    let cluster = Cluster::up();
    cluster.run(&["bucket", "create", "blocks"]);
    let sizes = [0usize, 1, 65_535, 65_536, 65_537, 4 << 20, (4 << 20) + 1, 30_000_000];
    for (i, size) in sizes.into_iter().enumerate() {
        let content = bytes(i as u64, size);
        let file = cluster.write("in", &content);
        let name = format!("blocks/dir/{i}.blk");
        let cid = cluster.put(&file, &[&name, "--ack", "all"]);
        cluster.assert_content(&cid, &content);
        cluster.assert_content(&name, &content);
        cluster.run(&["verify", &cid, "--deep"]);
        let shown = cluster.json(&["file", "show", &cid]);
        assert_eq!(shown["size"], size);
        assert_eq!(shown["chunks"].as_array().unwrap().len(), size.div_ceil(4 << 20));
    }
    let listing = cluster.json(&["ls", "blocks/dir/"]);
    assert_eq!(listing.as_array().unwrap().len(), sizes.len());
    assert_eq!(cluster.json(&["ls", "blocks", "--limit", "3"]).as_array().unwrap().len(), 3);
    let bucket = &cluster.json(&["bucket", "show", "blocks"])[0];
    assert_eq!(bucket["objects"], sizes.len());
    assert_eq!(bucket["bytes"], sizes.iter().sum::<usize>());
    let status = cluster.json(&["status"]);
    assert_eq!(status["files"], sizes.len());
    assert_eq!(status["tickets"], 0);
    // Chunks, not files: equal chunks would be one, and the empty file has none. A manifest that is no single
    // chunk's is stored as one more.
    let chunks = |size: usize| size.div_ceil(4 << 20);
    let manifest = |size: usize| if chunks(size) == 1 { 0 } else { 32 + 32 * chunks(size) };
    let stored = |size: &usize| chunks(*size) + usize::from(chunks(*size) != 1);
    assert_eq!(status["chunks"]["stable"], sizes.iter().map(stored).sum::<usize>());
    assert_eq!(status["chunk_bytes"], sizes.iter().map(|s| s + manifest(*s)).sum::<usize>());
    for format in ["table", "yaml"] {
        assert!(cluster.run(&["-o", format, "node", "ls"]).contains("data-5"));
        assert!(cluster.run(&["-o", format, "pool", "ls"]).contains("3x"));
        assert!(cluster.run(&["-o", format, "status"]).contains("metadata-1"));
    }
    assert_eq!(cluster.json(&["node", "show", "data-1"])["state"], "up");
    cluster.fails(&["bucket", "rm", "blocks"]).expect(1, "not_empty");
    cluster.run(&["bucket", "create", "empty"]);
    cluster.run(&["bucket", "rm", "empty"]);
    cluster.fails(&["bucket", "show", "empty"]).expect(1, "not_found");
}

#[test]
fn ids_are_the_same_everywhere_and_chunks_are_stored_once() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let content = bytes(7, 300_000);
    let file = cluster.write("in", &content);
    // Computed by a second implementation; docs/formats.md tells how.
    let cid = cluster.put(&file, &["--chunk-size", "64K"]);
    assert_eq!(cid, "bagaybqabdyql6cw274ijorunqr7eos2f3tsojw6glfo54dmvwefifo64c3ftgwq");
    assert_eq!(cluster.put(&file, &["--chunk-size", "64K", "--ack", "all"]), cid, "twice is once");
    let manifest = 32 + 5 * 32;
    assert_eq!(cluster.json(&["status"])["chunk_bytes"], 300_000 + manifest);
    assert_eq!(cluster.json(&["status"])["files"], 1);
    let other = cluster.put(&file, &["--chunk-size", "128K"]);
    assert_ne!(other, cid, "the chunk size is part of the name");
    let stdin = std::process::Command::new(wmall_tests::binary())
        .args(["--config", &cluster.config(), "-q", "put", "-", "--chunk-size", "64K"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(stdin.stdout).unwrap().trim(), cid);
    let chunk = cluster.json(&["file", "show", &cid])["chunks"][0].as_str().unwrap().to_string();
    let view = &cluster.json(&["chunk", "show", &chunk])[0];
    assert_eq!(view["grade"], "stable");
    assert_eq!(view["pieces"].as_array().unwrap().len(), 3);
}

#[test]
fn ranges_are_inclusive_and_stay_within_the_file() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let content = bytes(9, 200_000);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &["--chunk-size", "64K"]);
    let get = |range: &str| {
        let out = cluster.path("range");
        cluster.run(&["get", &cid, "--range", range, "-O", &out]);
        std::fs::read(out).unwrap()
    };
    for (first, last) in [(0, 0), (0, 99), (65_530, 65_545), (131_072, 199_999), (0, 199_999)] {
        assert_eq!(get(&format!("{first}-{last}")), content[first..=last]);
    }
    assert_eq!(get("199990-"), content[199_990..]);
    for range in ["0-200000", "200000-200000", "200000-"] {
        cluster.fails(&["get", &cid, "--range", range, "-O", "-"]).expect(1, "range_out_of_bounds");
    }
    assert_eq!(cluster.fails(&["get", &cid, "--range", "9-5", "-O", "-"]).exit, 2);
}

#[test]
fn proofs_are_checked_offline() {
    let cluster = Cluster::up_with(&["--metadata", "1", "--data", "3"]);
    let content = bytes(3, 5 * 65_536 + 10);
    let file = cluster.write("in", &content);
    let cid = cluster.put(&file, &["--chunk-size", "64K"]);
    let other = cluster.put(&file, &["--chunk-size", "128K"]);
    let chunk = cluster.write("chunk", &content[4 * 65_536..5 * 65_536]);
    let proof = cluster.write("p.json", cluster.run(&["proof", &cid, "--chunk", "4"]).as_bytes());
    cluster.fails(&["proof", &cid, "--chunk", "6"]).expect(1, "not_found");
    drop(cluster.run(&["status"]));
    // From here on without a cluster, and without a configuration.
    let ok = |args: &[&str]| assert!(wmall(args).status.success(), "{args:?}");
    ok(&["verify-proof", &proof, "--cid", &cid]);
    ok(&["verify-proof", &proof, "--cid", &cid, "--data", &chunk]);
    wmall_fails(&["verify-proof", &proof, "--cid", &other]).expect(1, "bad_proof");
    let wrong = cluster.write("wrong", &content[..65_536]);
    wmall_fails(&["verify-proof", &proof, "--cid", &cid, "--data", &wrong]).expect(1, "bad_proof");
    let broken = cluster.write("broken.json", b"{\"version\":1}");
    wmall_fails(&["verify-proof", &broken, "--cid", &cid]).expect(1, "bad_proof");
}
