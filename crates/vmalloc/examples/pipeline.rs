//! A pipeline of frames: one producer fills them, three consumer processes read the same bytes. What
//! goes through the pipes is a token of a few bytes; the memory of the last frame is the next one's.
//!
//! `cargo run -p vmalloc --example pipeline`

use std::error::Error;
use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use vmalloc::Pool;

const FRAME_BYTES: usize = 8 << 20; // 1920 by 1080, four bytes a pixel, and a little
const FRAMES: u8 = 20;

/// A consumer, and the pipes to and from it.
struct Consumer {
    process: Child,
    tokens: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(path) => consume(&path),
        None => produce(),
    }
}

fn produce() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(64 << 20)?;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(Consumer::start(&pool)?);
    }
    let mut read = 0;
    for number in 0..FRAMES {
        let mut frame = pool.vmalloc(FRAME_BYTES)?;
        frame.fill(number);
        let frame = frame.freeze()?;
        for consumer in &mut consumers {
            writeln!(consumer.tokens, "{}", frame.token())?;
        }
        for consumer in &mut consumers {
            let sum: u64 = consumer.answers.next().ok_or("a consumer died")??.parse()?;
            assert_eq!(sum, u64::from(number) * FRAME_BYTES as u64);
            read += 1;
        }
        frame.free()?;
    }
    let stats = pool.info().stats;
    println!("{FRAMES} frames of 8 MiB, each read by three processes: {read} readings, 0 copies");
    println!("{} of {} frames were warm memory", stats.revives, stats.allocs);

    for Consumer { mut process, tokens, .. } in consumers {
        drop(tokens); // no more frames: it leaves
        assert!(process.wait()?.success());
    }
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}

impl Consumer {
    fn start(pool: &Pool) -> Result<Consumer, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(pool.share_path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let tokens = process.stdin.take().ok_or("no pipe")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no pipe")?).lines();
        Ok(Consumer { process, tokens, answers })
    }
}

fn consume(path: &str) -> Result<(), Box<dyn Error>> {
    let pool = Pool::open(path)?;
    for token in stdin().lines() {
        let frame = pool.attach(&token?.parse()?)?; // mapped already: no system call
        println!("{}", frame.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
    Ok(())
}
