//! Containers and event counts in small groups, so that a change of one makes only its group be rendered anew.

use std::sync::Arc;

use crate::inventory::{Container, EventCount};
use crate::readers::gzip::Piece;

/// As many as make a piece that compresses well, and as few as bearable to render for the change of one.
const IN_A_SHARD: usize = 64;

/// Something that is rendered, and knows its place.
pub(super) trait Item: Clone {
    /// Whether those that are given come in the same order each time.
    const IN_ORDER: bool;
    /// The same for as long as this is the same thing.
    fn key(&self) -> u64;
    /// Whether this looks the same.
    fn same(&self, other: &Self) -> bool;
}

impl Item for Arc<Container> {
    const IN_ORDER: bool = true;

    fn key(&self) -> u64 {
        // Ids are random already; their first digits do.
        self.id.bytes().take(16).fold(0, |key, byte| key.wrapping_mul(31).wrapping_add(u64::from(byte)))
    }

    fn same(&self, other: &Self) -> bool {
        Self::ptr_eq(self, other)
    }
}

impl Item for EventCount {
    const IN_ORDER: bool = false;

    fn key(&self) -> u64 {
        // By its address: as long as a shard holds the label set, no other can have it.
        Arc::as_ptr(&self.labels) as u64 >> 4
    }

    fn same(&self, other: &Self) -> bool {
        self.count == other.count && Arc::ptr_eq(&self.labels, &other.labels)
    }
}

/// A group, with the compressed text of each of its streams.
#[derive(Debug)]
pub(super) struct Shard<T> {
    pub(super) items: Vec<T>,
    pub(super) text: Vec<Piece>,
}

/// A group that has to be rendered, and what it held before.
pub(super) struct Changed<'s, T> {
    pub(super) shard: &'s mut Shard<T>,
    pub(super) before: Vec<T>,
}

/// All groups.
#[derive(Debug)]
pub(super) struct Shards<T> {
    shards: Vec<Shard<T>>,
}

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self { shards: Vec::new() }
    }
}

impl<T: Item> Shards<T> {
    /// Takes over what there is now, and gives what has to be rendered.
    pub(super) fn update<'s>(&'s mut self, items: &[T]) -> impl Iterator<Item = Changed<'s, T>> + use<'s, T> {
        let count = self.count_for(items.len());
        let mut fresh: Vec<Vec<T>> = vec![Vec::new(); count];
        for item in items {
            // Spread by multiplying: addresses and ids that follow each other must not share a shard.
            let spread = item.key().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            if let Some(shard) = usize::try_from(spread).ok().and_then(|s| fresh.get_mut(s & (count - 1))) {
                shard.push(item.clone());
            }
        }
        if self.shards.len() != count {
            self.shards.clear();
            self.shards.resize_with(count, || Shard { items: Vec::new(), text: Vec::new() });
        }
        self.shards.iter_mut().zip(fresh).filter_map(|(shard, mut items)| {
            if !T::IN_ORDER {
                items.sort_unstable_by_key(Item::key);
            }
            let same = shard.items.len() == items.len()
                && shard.items.iter().zip(&items).all(|(before, now)| before.same(now));
            if same {
                return None;
            }
            let before = std::mem::replace(&mut shard.items, items);
            Some(Changed { shard, before })
        })
    }

    /// The groups.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Shard<T>> {
        self.shards.iter()
    }

    /// A power of two. Another number means rendering everything, so it changes with some reluctance.
    fn count_for(&self, items: usize) -> usize {
        let now = self.shards.len();
        if now > 0 && (now == 1 || items >= now * IN_A_SHARD / 4) && items <= now * IN_A_SHARD * 2 {
            now
        } else {
            items.div_ceil(IN_A_SHARD).max(1).next_power_of_two()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Item for (u64, u64) {
        const IN_ORDER: bool = false;

        fn key(&self) -> u64 {
            self.0
        }

        fn same(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn rendered(shards: &mut Shards<(u64, u64)>, items: &[(u64, u64)]) -> usize {
        let rendered = shards.update(items).count();
        let mut kept: Vec<_> = shards.iter().flat_map(|shard| shard.items.clone()).collect();
        kept.sort_unstable();
        let mut all = items.to_vec();
        all.sort_unstable();
        assert_eq!(kept, all);
        rendered
    }

    #[test]
    fn a_change_costs_one_shard() {
        let mut shards = Shards::default();
        let mut items: Vec<_> = (0..1000).map(|key| (key, 0)).collect();
        assert_eq!(rendered(&mut shards, &items), 16);
        assert_eq!(rendered(&mut shards, &items), 0);
        items.reverse();
        assert_eq!(rendered(&mut shards, &items), 0, "their order is of no importance");
        items[7].1 = 1;
        assert_eq!(rendered(&mut shards, &items), 1);
        items.pop();
        assert_eq!(rendered(&mut shards, &items), 1);
        items.push((5000, 0));
        assert_eq!(rendered(&mut shards, &items), 1);
    }

    #[test]
    fn shards_grow_and_shrink_with_what_they_hold() {
        let mut shards = Shards::default();
        for count in [0, 1, 64, 129, 10_000, 9_000, 100, 0] {
            let items: Vec<_> = (0..count).map(|key| (key, 0)).collect();
            rendered(&mut shards, &items);
            let largest = shards.iter().map(|shard| shard.items.len()).max().unwrap_or(0);
            assert!(largest <= 4 * IN_A_SHARD, "{count}: {largest}");
        }
        assert_eq!(shards.iter().count(), 1);
    }
}
