//! What every machine must do: one function a rule, named by the sentence that it proves.
//!
//! A machine's test file is three lines:
//!
//! ```text
//!   const HOST: SimHost = …;
//!   vmalloc_sim::conformance_tests!(HOST);      // one #[test] a rule, under the rule's name
//! ```
//!
//! Each rule gets a fresh [`Subject`] of the size it asks for, and afterwards the subject is
//! verified: by the engine's own check and by whatever the machine can count. Rules that need
//! what a machine cannot do ([`crate::Abilities`]) return at once.

mod arguments;
mod contents;
mod counting;
mod sharing;
mod steps;

pub use arguments::*;
pub use contents::*;
pub use counting::*;
pub use sharing::*;

use crate::subject::{Host, Setup, Subject};
use vmalloc_core::{PAGE_SIZE, Pages};

const PAGE: u64 = PAGE_SIZE as u64;

/// A rule of the suite.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The sentence it proves.
    pub name: &'static str,
    /// How large a subject it wants.
    pub setup: Setup,
    /// Panics if the sentence is not true.
    pub check: fn(&mut dyn Subject),
}

/// Checks the rule of this name on a fresh subject of `host`, and verifies the subject.
///
/// # Panics
///
/// If the rule is broken, or there is none of this name.
pub fn check(host: &dyn Host, name: &str) {
    let rule = RULES.iter().find(|rule| rule.name == name).expect("a rule of that name");
    host.with(rule.setup, &mut |subject| {
        (rule.check)(subject);
        if let Err(e) = subject.verify() {
            panic!("{} after {name}: {e}", host.name());
        }
    });
}

/// Checks every rule, and tells of each before it begins.
///
/// # Panics
///
/// If a rule is broken.
pub fn check_all(host: &dyn Host) {
    for rule in RULES {
        #[cfg(feature = "std")]
        println!("{}: {}", host.name(), rule.name);
        check(host, rule.name);
    }
}

/// Lists the rules, and makes the macro that turns them into tests.
macro_rules! rules {
    ($($setup:ident: $name:ident;)*) => {
        /// Every rule, in the order in which they build on each other.
        pub const RULES: &[Rule] =
            &[$(Rule { name: stringify!($name), setup: $setup, check: $name }),*];

        /// One `#[test]` for each rule of [`crate::conformance`], on the host given.
        #[macro_export]
        macro_rules! conformance_tests {
            ($host:expr) => {
                $(
                    #[test]
                    fn $name() {
                        $crate::conformance::check(&$host, stringify!($name));
                    }
                )*
            };
        }
    };
}

const USUAL: Setup = Setup::DEFAULT;
const THREE_MEMBERS: Setup = Setup { members: 3, ..Setup::DEFAULT };
const NEVER_OVER_LIMIT: Setup = Setup { lazy_pages_max: Pages(1 << 20), ..Setup::DEFAULT };
const HUGE_POOL: Setup = Setup { frames: Pages(4096), ..Setup::DEFAULT };
/// More frames than addresses.
const SHORT_WINDOW: Setup = Setup {
    frames: Pages(2048),
    window: Pages(1024),
    lazy_pages_max: Pages(1 << 20),
    ..Setup::DEFAULT
};
/// Room for twelve blocks of 4 MiB at multiples of 4 MiB, and for little besides.
const TWELVE_BLOCKS: Setup = Setup {
    frames: Pages(12 * 1024 + 64),
    window: Pages(13 * 1024 + 512),
    members: 1,
    lazy_pages_max: Pages(1 << 20),
};

rules! {
    USUAL: size_zero_is_refused_and_changes_nothing;
    USUAL: size_that_overflows_is_refused_and_changes_nothing;
    USUAL: more_than_the_pool_is_refused_and_changes_nothing;
    USUAL: bad_alignment_is_refused_and_changes_nothing;
    USUAL: free_of_null_is_refused_and_changes_nothing;
    USUAL: free_of_a_stranger_is_refused_and_changes_nothing;
    USUAL: free_of_an_interior_address_names_the_base_and_changes_nothing;
    USUAL: free_of_a_guard_page_is_refused_and_changes_nothing;
    USUAL: second_free_is_refused_and_changes_nothing;
    USUAL: base_is_a_multiple_of_every_power_of_two_asked_for;
    USUAL: guard_page_is_never_readable;
    USUAL: areas_and_their_guards_never_overlap;
    USUAL: contents_survive_the_traffic_of_others;
    USUAL: vzalloc_is_zero_also_where_others_left_their_bytes;
    USUAL: user_area_is_zero_and_marked_and_aligned_for_a_second_address;
    USUAL: revived_area_has_the_same_pages_and_cost_no_flush;
    USUAL: what_was_shared_is_zeroed_before_its_next_tenant;
    USUAL: what_one_member_freed_no_other_can_read;
    USUAL: strict_area_is_unreadable_once_freed;
    HUGE_POOL: huge_area_is_served_and_kept;
    USUAL: full_pool_is_an_error_and_the_pool_goes_on;
    USUAL: after_freeing_half_at_random_one_block_takes_every_free_frame;
    TWELVE_BLOCKS: exactly_fitting_aligned_holes_are_all_served;
    THREE_MEMBERS: area_lives_until_free_and_the_last_detach_in_any_order;
    USUAL: write_through_one_member_is_read_through_the_other;
    USUAL: frozen_area_cannot_be_written_by_a_guest;
    USUAL: token_of_a_freed_area_is_stale;
    USUAL: token_of_an_earlier_tenant_is_stale;
    USUAL: only_the_owner_shares_and_only_once;
    USUAL: vmap_shows_the_frames_given_in_their_order;
    USUAL: vunmap_leaves_the_frames_to_their_owner;
    USUAL: vfree_of_a_vmapped_area_is_refused;
    USUAL: purge_returns_every_frame;
    NEVER_OVER_LIMIT: purge_step_takes_at_most_64_areas_for_one_shootdown;
    USUAL: free_says_when_the_lazy_limit_is_passed;
    USUAL: vmallocinfo_is_in_address_order_with_the_fields_of_linux;
    USUAL: vmalloc_chunk_is_the_largest_request_that_is_served;
    SHORT_WINDOW: vmalloc_chunk_is_the_largest_request_in_a_short_window;
    USUAL: stats_add_up;
}
