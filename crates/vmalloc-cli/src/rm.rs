//! `vmalloc rm`: frees an area, or removes a pool's file.
//!
//! Freeing is legal while others are attached: they keep the area until they leave. Removing a
//! pool takes its name away; members keep it until they leave, and nobody else gets in.

use crate::args::RmArgs;
use crate::failure::{Done, Failure, not_freed, not_opened, open};
use crate::show::count;
use std::path::Path;
use vmalloc::{Onlooker, Pool, Token};

/// Frees or removes.
pub fn run(args: &RmArgs) -> Done {
    match &args.token {
        Some(token) => free(&args.path, token),
        None => remove(&args.path, args.force),
    }
}

fn free(path: &Path, token: &Token) -> Done {
    open(path)?.free(token).map_err(|e| not_freed(path, token, &e))
}

fn remove(path: &Path, force: bool) -> Done {
    // Joining recovers what dead members held, which would count as areas; if it does not
    // succeed, they do count.
    drop(Pool::open(path));
    // What is no pool is not ours to remove, forced or not.
    let pool = Onlooker::open(path).map_err(|e| not_opened(path, &e))?;
    let areas = pool.info().stats.areas as u64;
    let alive = pool.members().iter().filter(|m| m.alive != Some(false)).count() as u64;
    drop(pool);
    if (areas > 0 || alive > 0) && !force {
        return Err(Failure::new(format_args!(
            "{} holds {} and has {}: free them first, or remove it all the same with --force",
            path.display(),
            count(areas, "area"),
            count(alive, "living member")
        )));
    }
    std::fs::remove_file(path).map_err(|e| Failure::new(format_args!("{}: {e}", path.display())))
}
