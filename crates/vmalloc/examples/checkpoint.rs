//! A checkpoint without a pause: the state is frozen, which takes no copy, and the program goes on
//! in a snapshot of it, while another process writes the frozen state to disk. Only the pages that
//! are changed meanwhile are copied, by the kernel, one at a time.
//!
//! `cargo run -p vmalloc --example checkpoint`

use std::error::Error;
use std::process::{Command, Stdio};
use vmalloc::Pool;

const STATE_BYTES: usize = 8 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1..) {
        Some([path, token, file]) => save(path, token, file),
        _ => work(),
    }
}

fn work() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(32 << 20)?;
    let mut state = pool.vzalloc(STATE_BYTES)?;
    state[..6].copy_from_slice(b"step 1");

    let frozen = state.freeze()?;
    let file = std::env::temp_dir().join(format!("checkpoint-{}", std::process::id()));
    let mut saver = Command::new(std::env::current_exe()?);
    saver.arg(pool.share_path()).arg(frozen.token().to_string()).arg(&file);
    let mut saver = saver.stdin(Stdio::piped()).spawn()?;

    // On with the work. The saver has not begun: it waits for its input to end.
    let used = pool.info().stats.used;
    let mut state = frozen.snapshot()?;
    state[..6].copy_from_slice(b"step 2");
    assert_eq!(pool.info().stats.used, used, "a snapshot takes no frame of the pool");

    drop(saver.stdin.take());
    assert!(saver.wait()?.success());
    let saved = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    println!("saved: {} bytes of {:?}", saved.len(), String::from_utf8_lossy(&saved[..6]));
    println!("at work: {:?}", String::from_utf8_lossy(&state[..6]));
    assert!(saved[6..] == state[6..], "what was not changed is the same, and the same frames");

    drop(state);
    frozen.free()?;
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}

fn save(path: &str, token: &str, file: &str) -> Result<(), Box<dyn Error>> {
    std::io::read_to_string(std::io::stdin())?;
    let state = Pool::open(path)?.attach(&token.parse()?)?;
    std::fs::write(file, &state[..])?;
    Ok(())
}
