//! Power cuts on real file systems: the server writes to ext4 and xfs on a loop device, the file system is shut down
//! without a flush of its journal, mounted again, and the store is opened. Under `sync` every acknowledged change
//! survives; under `interval` and `none` the surviving commits are a prefix of the history over all clients.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::file_systems::Mount;
use super::program::{Server, health, keep, serve, stray_chunks};
use super::proof_amount::Proof;
use super::workload::{check_all, clients, under_load};

const MODES: [&str; 5] = ["sync", "sync", "sync", "none", "interval"];

fn cut_power(kind: &'static str, bytes: u64, proof: &Proof) {
    let mut mount = match Mount::on_loop(kind, bytes) {
        Ok(mount) => mount,
        Err(why) => return proof.skip(why),
    };
    let (root, log) = (mount.point().join("store"), mount.outside("log"));
    let mut rng = StdRng::seed_from_u64(proof.seed);
    let mut clients = clients(proof.seed);
    let (mut cuts, mut acknowledged, mut there, mut lost) = (0, 0, 0, 0_u64);
    let mut mode = MODES[0];
    loop {
        let replay = proof.replay(cuts);
        if cuts > 0 {
            keep(&root);
        }
        let next = MODES[usize::try_from(cuts).unwrap() % MODES.len()];
        let server = Server::of(serve(&root, &[("FASTK__STORE__DURABILITY", next)]), &log)
            .unwrap_or_else(|output| panic!("the server does not start: {output}; {replay}"));
        let rest = server.rest();
        if mode == "sync" {
            if cuts == 0 {
                clients.iter().for_each(|client| client.register(&rest).unwrap());
            }
            there += check_all(&mut clients, &rest, &replay).0;
        } else {
            let commit = health(&rest)["commit"].as_u64().unwrap();
            for client in &mut clients {
                lost += u64::from(client.check_prefix(&rest, commit, &replay));
            }
        }
        if !proof.continues(cuts) {
            server.stop();
            break;
        }
        mode = next;
        // Sometimes long enough for maintenance to finish.
        let longest = if rng.random_bool(0.2) { 1_500 } else { 250 };
        let pause = Duration::from_millis(rng.random_range(10..longest));
        let tally = under_load(&mut clients, server, |server, _| {
            std::thread::sleep(pause);
            mount.cut();
            server.cut_off();
        });
        acknowledged += tally.acknowledged.into_inner();
        cuts += 1;
        mount.away().unwrap_or_else(|why| panic!("{why}; {replay}"));
        mount.again().unwrap_or_else(|why| panic!("{why}; {replay}"));
    }
    let stray = stray_chunks(&root);
    proof.close(format_args!(
        "{cuts} power cuts on {kind}, {acknowledged} changes acknowledged, {there} in flight were there whole, \
         {lost} times a client lost changes without sync, never out of order; {stray} stray chunk files"
    ));
}

#[test]
fn power_cut_ext4_keeps_every_acknowledged_change() {
    cut_power("ext4", 64 << 20, &Proof::new("power_cut_ext4", 50));
}

#[test]
fn power_cut_xfs_keeps_every_acknowledged_change() {
    cut_power("xfs", 320 << 20, &Proof::new("power_cut_xfs", 50));
}
