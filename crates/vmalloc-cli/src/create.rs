//! `vmalloc create`: a pool at a path, for others to find.
//!
//! Says nothing when it is done, as `mkdir` does.

use crate::args::CreateArgs;
use crate::failure::{Done, not_created};
use vmalloc::Pool;

/// Makes the pool and leaves it.
pub fn run(args: &CreateArgs) -> Done {
    let options = Pool::options().members(args.members as usize);
    let options = if args.framed { options.framed() } else { options };
    let made = options.create_at(&args.path, args.capacity.0);
    made.map(drop).map_err(|e| not_created(&args.path, &e))
}
