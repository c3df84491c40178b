//! The peer for addresses: a red-black tree of free runs that knows the longest run below each
//! node, and a second one of the runs in use. As Linux keeps `free_vmap_area_root` and
//! `vmap_area_root`; written from that description.
//!
//! ```text
//!   take: walk left as long as a run below is long enough ─▶ cut its lower end ─▶ busy tree
//!   give: busy tree ─▶ neighbours by address ─▶ join ─▶ put the maxima right up to the root
//! ```
//!
//! First fit by address. Nodes lie in one array and name each other by index, which is kinder to
//! the cache than pointers into a slab. Each of the two trees has a lock, as in Linux.

use std::sync::{Mutex, MutexGuard};

const NIL: u32 = 0;

#[derive(Clone, Copy, Default)]
struct Node {
    start: u64,
    len: u64,
    /// The longest run in the subtree.
    longest: u64,
    left: u32,
    right: u32,
    parent: u32,
    is_red: bool,
}

/// A red-black tree by address. Node 0 stands for "none".
struct Tree {
    nodes: Vec<Node>,
    root: u32,
    spare: Vec<u32>,
    /// Whether `longest` is kept up.
    is_augmented: bool,
}

impl Tree {
    fn new(is_augmented: bool) -> Tree {
        Tree { nodes: vec![Node::default()], root: NIL, spare: Vec::new(), is_augmented }
    }

    fn at(&self, n: u32) -> &Node {
        &self.nodes[n as usize]
    }

    fn at_mut(&mut self, n: u32) -> &mut Node {
        &mut self.nodes[n as usize]
    }

    /// Works `longest` out anew. Whether it changed.
    fn refresh(&mut self, n: u32) -> bool {
        let node = self.at(n);
        let below = self.at(node.left).longest.max(self.at(node.right).longest);
        let longest = node.len.max(below);
        let changed = node.longest != longest;
        self.at_mut(n).longest = longest;
        changed
    }

    fn refresh_up(&mut self, mut n: u32) {
        while self.is_augmented && n != NIL && self.refresh(n) {
            n = self.at(n).parent;
        }
    }

    /// The node with the highest start at or below `addr`, and the one after it.
    fn around(&self, addr: u64) -> (u32, u32) {
        let (mut below, mut above, mut n) = (NIL, NIL, self.root);
        while n != NIL {
            if self.at(n).start <= addr {
                below = n;
                n = self.at(n).right;
            } else {
                above = n;
                n = self.at(n).left;
            }
        }
        (below, above)
    }

    /// The lowest run of at least `len`.
    fn first_fit(&self, len: u64) -> u32 {
        let mut n = self.root;
        if self.at(n).longest < len {
            return NIL;
        }
        loop {
            let node = self.at(n);
            if self.at(node.left).longest >= len {
                n = node.left;
            } else if node.len >= len {
                return n;
            } else {
                n = node.right;
            }
        }
    }

    fn rotate(&mut self, n: u32, to_left: bool) {
        let child = if to_left { self.at(n).right } else { self.at(n).left };
        let (inner, parent) = if to_left {
            (self.at(child).left, self.at(n).parent)
        } else {
            (self.at(child).right, self.at(n).parent)
        };
        if to_left {
            self.at_mut(n).right = inner;
            self.at_mut(child).left = n;
        } else {
            self.at_mut(n).left = inner;
            self.at_mut(child).right = n;
        }
        if inner != NIL {
            self.at_mut(inner).parent = n;
        }
        self.replace_child(parent, n, child);
        self.at_mut(child).parent = parent;
        self.at_mut(n).parent = child;
        if self.is_augmented {
            self.refresh(n);
            self.refresh(child);
        }
    }

    fn replace_child(&mut self, parent: u32, old: u32, new: u32) {
        if parent == NIL {
            self.root = new;
        } else if self.at(parent).left == old {
            self.at_mut(parent).left = new;
        } else {
            self.at_mut(parent).right = new;
        }
    }

    fn insert(&mut self, start: u64, len: u64) {
        let node = Node { start, len, longest: len, is_red: true, ..Node::default() };
        let new = match self.spare.pop() {
            Some(n) => {
                self.nodes[n as usize] = node;
                n
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let (mut parent, mut n) = (NIL, self.root);
        while n != NIL {
            parent = n;
            n = if start < self.at(n).start { self.at(n).left } else { self.at(n).right };
        }
        self.at_mut(new).parent = parent;
        if parent == NIL {
            self.root = new;
        } else if start < self.at(parent).start {
            self.at_mut(parent).left = new;
        } else {
            self.at_mut(parent).right = new;
        }
        self.refresh_up(parent);
        self.after_insert(new);
    }

    fn after_insert(&mut self, new: u32) {
        let mut n = new;
        loop {
            let parent = self.at(n).parent;
            if parent == NIL || !self.at(parent).is_red {
                break;
            }
            let grand = self.at(parent).parent;
            let is_left = self.at(grand).left == parent;
            let uncle = if is_left { self.at(grand).right } else { self.at(grand).left };
            if self.at(uncle).is_red {
                self.at_mut(parent).is_red = false;
                self.at_mut(uncle).is_red = false;
                self.at_mut(grand).is_red = true;
                n = grand;
                continue;
            }
            let is_inner = if is_left { self.at(parent).right } else { self.at(parent).left } == n;
            let top = if is_inner {
                self.rotate(parent, is_left);
                n
            } else {
                parent
            };
            self.at_mut(top).is_red = false;
            self.at_mut(grand).is_red = true;
            self.rotate(grand, !is_left);
            break;
        }
        let root = self.root;
        self.at_mut(root).is_red = false;
    }

    fn remove(&mut self, n: u32) {
        let node = *self.at(n);
        let (child, mut parent, was_red);
        if node.left == NIL || node.right == NIL {
            child = if node.left == NIL { node.right } else { node.left };
            (parent, was_red) = (node.parent, node.is_red);
            self.replace_child(parent, n, child);
            if child != NIL {
                self.at_mut(child).parent = parent;
            }
        } else {
            let mut next = node.right;
            while self.at(next).left != NIL {
                next = self.at(next).left;
            }
            child = self.at(next).right;
            (parent, was_red) = (self.at(next).parent, self.at(next).is_red);
            if parent == n {
                parent = next;
            } else {
                self.at_mut(parent).left = child;
                if child != NIL {
                    self.at_mut(child).parent = parent;
                }
                self.at_mut(next).right = node.right;
                self.at_mut(node.right).parent = next;
            }
            self.replace_child(node.parent, n, next);
            let moved = self.at_mut(next);
            (moved.parent, moved.left, moved.is_red) = (node.parent, node.left, node.is_red);
            self.at_mut(node.left).parent = next;
        }
        if self.is_augmented {
            let mut up = parent;
            while up != NIL {
                self.refresh(up);
                up = self.at(up).parent;
            }
        }
        if !was_red {
            self.after_remove(child, parent);
        }
        self.spare.push(n);
    }

    fn after_remove(&mut self, child: u32, parent: u32) {
        let (mut n, mut parent) = (child, parent);
        while n != self.root && !self.at(n).is_red {
            let is_left = self.at(parent).left == n;
            let mut other = if is_left { self.at(parent).right } else { self.at(parent).left };
            if self.at(other).is_red {
                self.at_mut(other).is_red = false;
                self.at_mut(parent).is_red = true;
                self.rotate(parent, is_left);
                other = if is_left { self.at(parent).right } else { self.at(parent).left };
            }
            let (left, right) = (self.at(other).left, self.at(other).right);
            let (near, far) = if is_left { (left, right) } else { (right, left) };
            if !self.at(near).is_red && !self.at(far).is_red {
                self.at_mut(other).is_red = true;
                n = parent;
                parent = self.at(n).parent;
                continue;
            }
            if !self.at(far).is_red {
                self.at_mut(near).is_red = false;
                self.at_mut(other).is_red = true;
                self.rotate(other, !is_left);
                other = near;
            }
            let far = if is_left { self.at(other).right } else { self.at(other).left };
            self.at_mut(other).is_red = self.at(parent).is_red;
            self.at_mut(parent).is_red = false;
            self.at_mut(far).is_red = false;
            self.rotate(parent, is_left);
            n = self.root;
        }
        self.at_mut(n).is_red = false;
        self.at_mut(NIL).is_red = false;
    }
}

/// Address ranges as Linux keeps them: a tree of holes and a tree of areas, a lock each.
pub struct RangeTree {
    free: Mutex<Tree>,
    busy: Mutex<Tree>,
}

fn locked(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().expect("no holder of this lock panics")
}

impl RangeTree {
    /// A window that is all one hole.
    pub fn new(start: u64, len: u64) -> RangeTree {
        let mut free = Tree::new(true);
        free.insert(start, len);
        RangeTree { free: Mutex::new(free), busy: Mutex::new(Tree::new(false)) }
    }

    /// Takes the lowest run of `len` pages.
    pub fn take(&self, len: u64) -> Option<u64> {
        let mut free = locked(&self.free);
        let n = free.first_fit(len);
        if n == NIL {
            return None;
        }
        let start = free.at(n).start;
        if free.at(n).len == len {
            free.remove(n);
        } else {
            let node = free.at_mut(n);
            node.start += len;
            node.len -= len;
            free.refresh_up(n);
        }
        drop(free);
        locked(&self.busy).insert(start, len);
        Some(start)
    }

    /// Gives back the area that begins at `start`. `false`: there is none.
    pub fn give(&self, start: u64) -> bool {
        let mut busy = locked(&self.busy);
        let (n, _) = busy.around(start);
        if n == NIL || busy.at(n).start != start {
            return false;
        }
        let len = busy.at(n).len;
        busy.remove(n);
        drop(busy);
        let mut free = locked(&self.free);
        let (below, above) = free.around(start);
        let joins_below = below != NIL && free.at(below).start + free.at(below).len == start;
        let joins_above = above != NIL && free.at(above).start == start + len;
        match (joins_below, joins_above) {
            (true, true) => {
                let more = free.at(above).len;
                free.remove(above);
                free.at_mut(below).len += len + more;
                free.refresh_up(below);
            }
            (true, false) => {
                free.at_mut(below).len += len;
                free.refresh_up(below);
            }
            (false, true) => {
                let node = free.at_mut(above);
                node.start = start;
                node.len += len;
                free.refresh_up(above);
            }
            (false, false) => free.insert(start, len),
        }
        true
    }

    /// The longest hole.
    pub fn longest(&self) -> u64 {
        let free = locked(&self.free);
        free.at(free.root).longest
    }

    /// The start of the area that holds `page`.
    pub fn find(&self, page: u64) -> Option<u64> {
        let busy = locked(&self.busy);
        // From the root, and no further than the area: as `find_vmap_area`.
        let mut n = busy.root;
        while n != NIL {
            let node = busy.at(n);
            if page < node.start {
                n = node.left;
            } else if page >= node.start + node.len {
                n = node.right;
            } else {
                return Some(node.start);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    /// Counts black nodes on the way down, and checks order, colours and maxima.
    fn check(tree: &Tree, n: u32, from: u64, to: u64) -> usize {
        if n == NIL {
            return 1;
        }
        let node = tree.at(n);
        assert!(from <= node.start && node.start + node.len <= to, "order");
        assert!(!node.is_red || !tree.at(node.left).is_red && !tree.at(node.right).is_red);
        if tree.is_augmented {
            let below = tree.at(node.left).longest.max(tree.at(node.right).longest);
            assert_eq!(node.longest, node.len.max(below), "maximum");
        }
        let left = check(tree, node.left, from, node.start);
        let right = check(tree, node.right, node.start + node.len, to);
        assert_eq!(left, right, "black nodes");
        left + usize::from(!node.is_red)
    }

    /// Goal: the peer is a correct allocator, so that it is a fair one. Method: random steps
    /// against a map, and the trees' invariants.
    #[test]
    fn the_tree_is_a_first_fit_allocator_and_a_red_black_tree() {
        let (window, mut rng) = (4000, Rng(5));
        let tree = RangeTree::new(100, window);
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for step in 0..40_000 {
            if rng.below(2) == 0 || live.is_empty() {
                let len = rng.log_uniform(1, 60);
                // First fit, by hand.
                let mut at = 100;
                for (&start, &len_live) in &live {
                    if start - at >= len {
                        break;
                    }
                    at = start + len_live;
                }
                let want = (at + len <= 100 + window).then_some(at);
                assert_eq!(tree.take(len), want, "step {step}");
                want.map(|at| live.insert(at, len));
            } else {
                let nth = rng.below(live.len() as u64) as usize;
                let (&start, &len) = live.iter().nth(nth).expect("below its length");
                assert_eq!(tree.find(start + len - 1), Some(start));
                live.remove(&start);
                assert!(tree.give(start));
                assert!(!tree.give(start));
            }
            if step % 500 == 0 {
                let (free, busy) = (locked(&tree.free), locked(&tree.busy));
                check(&free, free.root, 0, u64::MAX);
                check(&busy, busy.root, 0, u64::MAX);
            }
        }
    }
}
