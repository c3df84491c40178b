//! Hostile bytes: a member that owns the shared words, and one that works in them.
//!
//! ```text
//!   forger: words by pwrite, before and all the time    victim: open, list, attach, alloc, resize,
//!           blind · by structure · to and fro                    publish, free, recover, purge
//!                                                        errors only; never a panic, signal, hang
//! ```
//!
//! A seed is one pool, one forgery and one run through everything. The victim is a process of its
//! own, so that whatever ends it is seen; the next seed gets a new one.

mod forge;
pub mod victim;

use crate::crash::image::Layout;
use crate::peer::{Peer, command};
use crate::support::{MIB, PAGE, file_of};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use vmalloc::core::layout::Table;
use vmalloc::{Pool, ResizeError};

/// How long a seed may take before it counts as hung: a thousand times what it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seeds that once ended the victim, a line each.
const CORPUS: &str = include_str!("corpus.txt");

/// What a run through some seeds showed.
#[derive(Default)]
struct Findings {
    seeds: u64,
    slowest: Duration,
    /// The seed, and how it ended.
    bad: Vec<(u64, String)>,
}

impl Findings {
    /// Runs through `seeds` until `stop`; a victim that ends badly is a finding, and the next goes on.
    fn look(&mut self, seeds: Range<u64>, stop: impl Fn(&Findings) -> bool) {
        let mut next = seeds.start;
        while next < seeds.end && !stop(self) {
            let mut command = command("hostile");
            command.env("VMALLOC_TEST_ARGUMENT", format!("{next} {}", seeds.end));
            let mut peer = Peer::spawn(command);
            let mut at = next;
            loop {
                let began = Instant::now();
                let reply = peer.reply_within(PATIENCE);
                self.slowest = self.slowest.max(began.elapsed());
                match reply {
                    Ok(Some(reply)) if reply == "done" => {
                        self.seeds += at + 1 - next;
                        next = seeds.end;
                        break;
                    }
                    Ok(Some(reply)) => {
                        at = reply.strip_prefix("seed ").unwrap().parse().unwrap();
                        if stop(self) {
                            self.seeds += at - next;
                            next = seeds.end;
                            break;
                        }
                    }
                    ended => {
                        let how = match ended {
                            Ok(_) => peer.wait().to_string(),
                            Err(_) => format!("hung for {PATIENCE:?}"),
                        };
                        println!("seed {at}: {how}");
                        self.bad.push((at, how));
                        self.seeds += at + 1 - next;
                        next = at + 1;
                        break;
                    }
                }
            }
        }
    }

    #[track_caller]
    fn print(&self, start: Instant) {
        println!(
            "{} seeds in {:.0?}, the slowest in {:.1?}; {} findings",
            self.seeds,
            start.elapsed(),
            self.slowest,
            self.bad.len()
        );
        assert!(self.bad.is_empty(), "{:?}", self.bad);
    }
}

/// Goal: whatever another member writes into the pool's words, every verb returns: with an error
/// or with work done, and never with a panic, a hang, SIGBUS or SIGSEGV.
/// Method: the module's, for the seeds that once did, and for 120 more.
#[test]
fn whatever_a_hostile_member_writes_every_verb_returns() {
    let (start, mut findings) = (Instant::now(), Findings::default());
    let seed = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    for seed in CORPUS.lines().filter_map(seed) {
        findings.look(seed..seed + 1, |_| false);
    }
    findings.look(0..120, |_| false);
    findings.print(start);
}

/// Goal: a buffer takes no pages from a record that claims more than were ever committed.
/// Method: the record of a buffer of 3 pages says 60; the buffer wants 50, for which the record
/// would only be made shorter. Then 3, and as true as before.
#[test]
fn a_buffer_is_not_resized_into_pages_that_a_forged_record_claims() {
    let pool = Pool::create(8 * MIB).unwrap();
    let mut buf = pool.vmalloc(3 * PAGE as usize).unwrap();
    let (file, _) = file_of(&pool);
    // The record, by what stands in it: bytes, and pages below the guard's.
    let records = Layout::of(&pool, &file).table(Table::Records);
    let mut words = vec![0; records.len() * 8];
    file.read_exact_at(&mut words, (records.start * 8) as u64).unwrap();
    let (words, _) = words.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let is_it = |record: &[u64]| record[1] == 3 * PAGE && record[2] & 0xffff_ffff == 3;
    let record = words.chunks(8).position(is_it).unwrap();
    let at = ((records.start + 8 * record + 2) * 8) as u64;
    let was = words[8 * record + 2];
    let write = |pages: u64| file.write_all_at(&pages.to_ne_bytes(), at).unwrap();
    write(was + 57);
    let refused = buf.resize(50 * PAGE as usize).unwrap_err();
    let ResizeError::Engine(vmalloc::core::ResizeError::Forged { known, recorded }) = refused
    else {
        panic!("{refused}");
    };
    assert_eq!((known.0, recorded.0, buf.len() as u64), (3, 60, 3 * PAGE));
    write(was);
    buf.resize(PAGE as usize).unwrap();
    assert_eq!(buf.len() as u64, PAGE);
}

/// Goal and method as above, for `VMALLOC_HOSTILE_MINUTES` (60) from seed `VMALLOC_HOSTILE_SEED`
/// (1000) on; the figures are in docs/crash.md.
#[test]
#[ignore = "an hour: cargo test -p vmalloc --test linux hostile_member_writes_for_an_hour -- --ignored --nocapture"]
fn whatever_a_hostile_member_writes_for_an_hour_every_verb_returns() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let time = Duration::from_secs(60 * number("VMALLOC_HOSTILE_MINUTES", 60));
    let from = number("VMALLOC_HOSTILE_SEED", 1000);
    let (start, mut findings) = (Instant::now(), Findings::default());
    let told = std::cell::Cell::new(start);
    findings.look(from..u64::MAX, |findings| {
        if told.get().elapsed() > Duration::from_secs(60) {
            told.set(Instant::now());
            println!("{:.0?}: {} findings", start.elapsed(), findings.bad.len());
        }
        start.elapsed() > time
    });
    findings.print(start);
}
