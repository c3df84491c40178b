//! Collections whose memory is a pool's: the feature `allocator-api2`.

use allocator_api2::vec::Vec as PoolVec;
use vmalloc::{InPool, Pool};

const PAGE: usize = 4096;

/// Numbers that look random; the same each time.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// Whether nothing is left but what is parked.
fn is_empty(pool: &Pool) -> bool {
    pool.purge().unwrap();
    pool.verify().unwrap().areas == 0
}

/// Goal: whatever is done to vectors in a pool, they hold what ordinary ones hold. Method: 4,000
/// steps by numbers, each on one of four vectors beside its twin; sizes around pages and classes.
#[test]
fn vectors_in_a_pool_hold_what_ordinary_ones_hold() {
    let pool = Pool::create(64 << 20).unwrap();
    let alloc = InPool::new(&pool);
    let mut pairs: Vec<(PoolVec<u32, InPool>, Vec<u32>)> =
        (0..4).map(|_| (PoolVec::new_in(alloc.clone()), Vec::new())).collect();
    let mut next = numbers(7);
    for step in 0..4000 {
        let (n, how) = (next.next().unwrap() as usize, next.next().unwrap());
        let (ours, twin) = &mut pairs[n % 4];
        match how % 8 {
            0..=3 => {
                let more = (n >> 8) % (3 * PAGE);
                ours.extend((0..more).map(|i| (i + step) as u32));
                twin.extend((0..more).map(|i| (i + step) as u32));
            }
            4 => {
                let len = twin.len() / 3;
                ours.truncate(len);
                twin.truncate(len);
                ours.shrink_to_fit();
            }
            5 => ours.reserve_exact((n >> 8) % (64 * PAGE)),
            6 => {
                *ours = ours.clone();
            }
            _ => {
                let from = twin.len() / 2;
                ours.drain(from..);
                twin.drain(from..);
            }
        }
        assert!(ours.as_slice() == twin.as_slice(), "step {step}");
        if twin.len() > 1 << 20 {
            ours.clear();
            twin.clear();
        }
    }
    drop(pairs);
    assert_eq!(format!("{alloc:?}"), "InPool { blocks: 0, .. }");
    assert!(is_empty(&pool));
}

/// Goal: a large vector grows where it lies, as long as nobody lives behind it.
#[test]
fn a_large_vector_grows_in_place() {
    let pool = Pool::create(64 << 20).unwrap();
    let mut vec: PoolVec<u8, InPool> = PoolVec::with_capacity_in(4 << 20, InPool::new(&pool));
    let first = vec.as_ptr();
    vec.resize(32 << 20, 7);
    assert_eq!(vec.as_ptr(), first);
    assert!(vec.iter().all(|byte| *byte == 7));
}

/// Goal: a vector that cannot grow says so, and keeps what it has.
#[test]
fn a_vector_that_cannot_grow_keeps_what_it_has() {
    let pool = Pool::create(1 << 20).unwrap();
    let mut vec: PoolVec<u64, InPool> = PoolVec::new_in(InPool::new(&pool));
    vec.extend(0..1000);
    assert!(vec.try_reserve_exact(1 << 20).is_err());
    assert!(vec.iter().copied().eq(0..1000));
    drop(vec);
    assert!(is_empty(&pool));
}

/// Goal: types of any alignment and of no size lie where they must.
#[test]
fn alignment_is_kept_and_no_size_takes_no_memory() {
    #[derive(Clone)]
    #[repr(align(16384))]
    struct Wide(u8);
    let pool = Pool::create(8 << 20).unwrap();
    let mut wide: PoolVec<Wide, InPool> = PoolVec::new_in(InPool::new(&pool));
    for n in 0..40 {
        wide.push(Wide(n));
        assert!(wide.as_ptr().addr().is_multiple_of(16384));
    }
    assert!(wide.iter().map(|wide| wide.0).eq(0..40));
    drop(wide);
    let mut nothing: PoolVec<(), InPool> = PoolVec::new_in(InPool::new(&pool));
    nothing.resize(1000, ());
    assert_eq!(pool.info().stats.used.0, 0);
    drop(nothing);
    assert!(is_empty(&pool));
}

/// Goal: the buffer of a vector is its memory and its length, and no byte behind that.
#[test]
fn bytes_leave_as_the_buffer_they_lie_in() {
    let pool = Pool::create(8 << 20).unwrap();
    for len in [1, PAGE - 1, PAGE, 5 * PAGE + 3] {
        let mut vec = PoolVec::with_capacity_in(9 * PAGE, InPool::new(&pool));
        vec.extend(std::iter::repeat_n(1_u8, 9 * PAGE));
        vec.truncate(len);
        let first = vec.as_ptr();
        let buf = InPool::into_buf(vec).unwrap();
        assert_eq!((buf.as_ptr(), buf.len()), (first, len));
        let shared = buf.share().unwrap();
        assert_eq!(shared.words().len(), len / 8);
        shared.free().unwrap();
    }
    let none: PoolVec<u8, InPool> = PoolVec::new_in(InPool::new(&pool));
    assert!(InPool::into_buf(none).is_err());
    let cleared: PoolVec<u8, InPool> = PoolVec::with_capacity_in(10, InPool::new(&pool));
    assert!(InPool::into_buf(cleared).is_err());
    assert!(is_empty(&pool));
}

/// Goal: zeros that are asked for are zeros, in a warm area too, and after a growth.
#[test]
fn zeroed_blocks_are_zeros_however_they_come_about() {
    use allocator_api2::alloc::{Allocator, Layout};
    let pool = Pool::create(8 << 20).unwrap();
    let alloc = InPool::new(&pool);
    let dirty: PoolVec<u8, InPool> = {
        let mut vec = PoolVec::with_capacity_in(4 * PAGE, alloc.clone());
        vec.resize(4 * PAGE, 0xff);
        vec
    };
    drop(dirty);
    let layout = Layout::array::<u8>(4 * PAGE).unwrap();
    let block = alloc.allocate_zeroed(layout).unwrap();
    // SAFETY:
    // 1. A block of so many bytes that nobody else has, initialised: `allocate_zeroed`.
    let bytes = unsafe { block.as_ref() };
    assert!(bytes.iter().all(|byte| *byte == 0));
    let longer = Layout::array::<u8>(900 * PAGE).unwrap();
    // SAFETY:
    // 1. The block above, with its layout; `bytes` is not used any more.
    let block = unsafe { alloc.grow_zeroed(block.cast(), layout, longer) }.unwrap();
    // SAFETY:
    // 1. A block of so many bytes that nobody else has, initialised.
    let bytes = unsafe { block.as_ref() };
    assert!(bytes.len() == 900 * PAGE && bytes.iter().all(|byte| *byte == 0));
    // SAFETY:
    // 1. The block as it is now, with its layout; `bytes` is not used any more.
    unsafe { alloc.deallocate(block.cast(), longer) };
    assert!(is_empty(&pool));
}
