//! Methods of a word that are the same for all of a test's words: what follows from
//! `compare_exchange`, and the many that change a word and say what it held.

/// The methods that change a word and say what it held, each as `$change!(self, method, value, order)`
/// has it; and `compare_exchange_weak`, which never fails for nothing.
macro_rules! changes {
    ($change:ident) => {
        changes! {
            $change: swap, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_xor, fetch_max, fetch_min
        }

        pub fn compare_exchange_weak(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.compare_exchange(current, new, success, failure)
        }
    };
    ($change:ident: $($method:ident),*) => {
        $(pub fn $method(&self, value: u64, order: Ordering) -> u64 {
            $change!(self, $method, value, order)
        })*
    };
}

/// A change by the word's own `write`, which may be left out: then it says that it was made.
#[cfg(any(test, feature = "stepped", shuttle))]
macro_rules! written {
    ($self:ident, $method:ident, $value:ident, $order:ident) => {
        $self.write($order, |word| word.$method($value, $order)).unwrap_or_else(|was| was)
    };
}

/// `fetch_update` and `update` as the loops that they are, so that others may come in between.
#[cfg(any(loom, shuttle))]
macro_rules! loops {
    () => {
        pub fn fetch_update(
            &self,
            success: Ordering,
            failure: Ordering,
            mut update: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            let mut now = self.load(failure);
            while let Some(new) = update(now) {
                match self.compare_exchange(now, new, success, failure) {
                    Ok(was) => return Ok(was),
                    Err(was) => now = was,
                }
            }
            Err(now)
        }

        pub fn update(
            &self,
            success: Ordering,
            failure: Ordering,
            mut update: impl FnMut(u64) -> u64,
        ) -> u64 {
            let done = self.fetch_update(success, failure, |value| Some(update(value)));
            done.unwrap_or_else(|value| value)
        }
    };
}
