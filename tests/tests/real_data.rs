//! `make test-real DATA=folder`: files of the user's own go in, nodes die, the files come out identical.

use std::path::PathBuf;
use std::time::Duration;

use wmall_tests::Cluster;

#[test]
#[ignore = "needs files; `make test-real DATA=folder` runs it"]
fn files_of_yours_come_back_identical() {
    let folder = PathBuf::from(std::env::var_os("WMALL_DATA").expect("WMALL_DATA names a folder of files"));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no files", folder.display());
    let cluster = Cluster::up();
    cluster.run(&["bucket", "create", "real"]);
    let mut stored = Vec::new();
    for file in &files {
        for chunk_size in ["64K", "4M"] {
            let path = file.display().to_string();
            let name = format!("real/{chunk_size}/{}", file.file_name().unwrap().to_string_lossy());
            let cid = cluster.put(&path, &[&name, "--ack", "all", "--chunk-size", chunk_size]);
            println!("{cid} {name}");
            stored.push((cid, name, std::fs::read(file).unwrap()));
        }
    }
    cluster.devnet("kill", "data-1", &[]);
    cluster.devnet("kill", "data-4", &[]);
    for (cid, name, content) in &stored {
        cluster.assert_content(cid, content);
        cluster.assert_content(name, content);
    }
    cluster.devnet("start", "data-1", &[]);
    cluster.devnet("start", "data-4", &[]);
    cluster.wait_status("all stable", Duration::from_secs(30), |s| {
        s["chunks"]["warning"] == 0 && s["chunks"]["danger"] == 0
    });
    for (cid, ..) in &stored {
        cluster.run(&["verify", cid, "--deep"]);
    }
}
