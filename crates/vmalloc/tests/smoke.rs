use vmalloc::Pool;
#[test]
fn smoke() {
    let pool = Pool::create(256 << 20).unwrap();
    let t = std::time::Instant::now();
    let mut v = Vec::new();
    let mut x = 12345u64;
    loop {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let n = 4096 + (x % (4 << 20)) as usize;
        match pool.vmalloc(n) {
            Ok(mut b) => {
                b[0] = 1;
                b[n - 1] = 2;
                v.push(b)
            }
            Err(e) => {
                println!("{e}");
                break;
            }
        }
    }
    println!("{} areas {:?}", v.len(), t.elapsed());
    let mut i = 0;
    v.retain(|_| {
        i += 1;
        i % 2 == 0
    });
    let info = pool.info();
    println!("{info:?}");
    let used: u64 = v.iter().map(|b| (b.len() as u64).div_ceil(4096)).sum();
    let free = (65536 - used) * 4096;
    let t = std::time::Instant::now();
    let big = pool.vmalloc(free as usize).unwrap();
    println!("big {} {:?}", big.len(), t.elapsed());
    println!("{:?}", pool.info());
    println!("vmas {}", vmalloc::vmas().unwrap());
    drop(big);
    drop(v);
    println!("{:?}", pool.purge());
    println!("{:?}", pool.verify());
    println!("{:?}", pool.info().resident_bytes);
    for n in [4096usize, 65536, 1 << 20, 16 << 20, 128 << 20] {
        let b = pool.vmalloc(n).unwrap();
        drop(b);
        let t = std::time::Instant::now();
        for _ in 0..100000 {
            let b = pool.vmalloc(n).unwrap();
            std::hint::black_box(&b[0]);
        }
        println!("{n}: {:?} ns", t.elapsed().as_nanos() / 100000);
    }
}
