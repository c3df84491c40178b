//! placeholder

// The layers above arrive next; until then only the tests use most of this one.
#[allow(dead_code)]
mod os;

#[doc(hidden)]
pub mod testing {
    //! For the tests of this workspace: makes the n-th call to the operating system fail.
    pub use crate::os::fail::{Armed, Plan};
}
