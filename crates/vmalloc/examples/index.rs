//! A read-only index that several processes share: sorted once, frozen, found by its name. Each
//! process searches the bytes where they lie; nothing is parsed, and nothing is copied.
//!
//! `cargo run -p vmalloc --example index`

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::Duration;
use vmalloc::Pool;

const NAME: &str = "index";
const ENTRIES: u64 = 100_000;
/// Key and value, 64 bits each, least byte first.
const ENTRY_BYTES: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1..) {
        Some([path, key]) => look_up(path, key.parse()?),
        _ => build(),
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(16 << 20)?;
    // Who looks first waits for the name.
    let mut children = Vec::new();
    for key in [7 * 7, 31_337 * 7, 50] {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(pool.share_path()).arg(key.to_string()).stdout(Stdio::piped());
        children.push(command.spawn()?);
    }

    let mut index = pool.vmalloc(ENTRIES as usize * ENTRY_BYTES)?;
    for (entry, number) in index.chunks_exact_mut(ENTRY_BYTES).zip(0..) {
        let (key, value): (u64, u64) = (number * 7, number * number);
        entry[..8].copy_from_slice(&key.to_le_bytes());
        entry[8..].copy_from_slice(&value.to_le_bytes());
    }
    let index = index.freeze()?; // from here on nobody can change it, this process neither
    pool.name(&index.token(), NAME)?;

    for child in children {
        let output = child.wait_with_output()?;
        assert!(output.status.success());
        print!("{}", String::from_utf8(output.stdout)?);
    }
    index.free()?;
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}

fn look_up(path: &str, key: u64) -> Result<(), Box<dyn Error>> {
    let pool = Pool::open(path)?;
    let token = pool.signal().wait_for(Duration::from_secs(60), || pool.named(NAME))?;
    let index = pool.attach(&token.ok_or("nobody has made the index")?)?;

    let (entries, _) = index.as_chunks::<ENTRY_BYTES>();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    match entries.binary_search_by_key(&key, |entry| word(&entry[..8])) {
        Ok(at) => println!("key {key}: value {}", word(&entries[at][8..])),
        Err(at) => println!("key {key}: none, it would be entry {at}"),
    }
    Ok(())
}
