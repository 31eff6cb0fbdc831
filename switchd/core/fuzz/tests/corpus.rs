//! Every file of the corpus, and 20,000 fixed mutations of it, through each target.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod seeds;

use std::fs;
use std::path::PathBuf;

use switch_core_fuzz::{arp_nd_reply, frame_parse, offload_split_coalesce, overlay_parse};

const MUTATIONS: usize = 20_000;
const MAX_LEN: usize = 4096;

#[test]
fn frame_parse_corpus() {
    run("frame_parse", frame_parse);
}

#[test]
fn overlay_parse_corpus() {
    run("overlay_parse", overlay_parse);
}

#[test]
fn offload_split_coalesce_corpus() {
    run("offload_split_coalesce", offload_split_coalesce);
}

#[test]
fn arp_nd_reply_corpus() {
    run("arp_nd_reply", arp_nd_reply);
}

/// `cargo test -p switch-core-fuzz -- --ignored` writes the seeds anew; what fuzzing found stays.
#[test]
#[ignore = "writes the corpus"]
fn write_corpus() {
    for target in ["frame_parse", "overlay_parse", "offload_split_coalesce", "arp_nd_reply"] {
        fs::create_dir_all(dir(target)).unwrap();
        for (i, seed) in seeds::seeds(target).iter().enumerate() {
            fs::write(dir(target).join(format!("seed-{i:03}")), seed).unwrap();
        }
    }
}

fn dir(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn run(target: &str, fuzz: fn(&[u8])) {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(corpus.len() >= 15, "the corpus of {target} is missing");
    for (file, data) in files.iter().zip(&corpus) {
        Running { what: file.display().to_string(), data }.run(fuzz);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for i in 0..MUTATIONS {
        let data = random.mutate(&corpus);
        Running { what: format!("mutation {i}"), data: &data }.run(fuzz);
    }
}

/// Says which input failed.
struct Running<'a> {
    what: String,
    data: &'a [u8],
}

impl Running<'_> {
    fn run(&self, fuzz: fn(&[u8])) {
        fuzz(self.data);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.data.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{} failed: {hex}", self.what);
        }
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut data = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len());
            match self.below(8) {
                0 | 1 => self.set(&mut data, at, |byte, random| byte ^ (1 << random.below(8))),
                2 => self.set(&mut data, at, |_, random| random.below(256) as u8),
                3 => self.set(&mut data, at, |_, random| [0, 1, 0x7f, 0x80, 0xff][random.below(5)]),
                4 => data.truncate(at),
                5 => {
                    let end = (at + self.below(40)).min(data.len());
                    let copy = data[at..end].to_vec();
                    data.splice(at..at, copy);
                }
                6 => {
                    let end = (at + 1 + self.below(8)).min(data.len());
                    data.drain(at..end);
                }
                _ => {
                    let other = &corpus[self.below(corpus.len())];
                    data.truncate(at);
                    data.extend(&other[self.below(other.len())..]);
                }
            }
            data.truncate(MAX_LEN);
        }
        data
    }

    fn set(&mut self, data: &mut [u8], at: usize, to: impl Fn(u8, &mut Random) -> u8) {
        if let Some(byte) = data.get_mut(at) {
            *byte = to(*byte, self);
        }
    }
}
