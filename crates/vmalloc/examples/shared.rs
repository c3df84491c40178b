//! One buffer, two processes: the second is this program again, which gets a path and a token.
//!
//! `cargo run -p vmalloc --example shared`

use std::process::Command;
use vmalloc::Pool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1..) {
        Some([path, token]) => second(path, token),
        _ => first(),
    }
}

fn first() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::create(16 << 20)?;
    let shared = pool.vmalloc(1 << 20)?.share()?;
    shared.write_at(0, b"ping")?;

    let mut child = Command::new(std::env::current_exe()?);
    let status = child.arg(pool.share_path()).arg(shared.token().to_string()).status()?;
    assert!(status.success());

    let mut answer = [0; 4];
    shared.read_at(4, &mut answer)?;
    println!("the other process answered {:?}", String::from_utf8_lossy(&answer));
    shared.free()?;
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}

fn second(path: &str, token: &str) -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::open(path)?;
    let shared = pool.attach_shared(&token.parse()?)?;
    let mut asked = [0; 4];
    shared.read_at(0, &mut asked)?;
    assert_eq!(&asked, b"ping");
    shared.write_at(4, b"pong")?;
    Ok(())
}
