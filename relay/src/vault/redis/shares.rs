//! The shares by which living nodes take over what a dead one leaves, one for each living node.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): an account goes to the node with the highest weight. All nodes compute the same without asking each
//! other; when one node goes, only its share moves. An account's devices carry the same [`ShardTag`], and so stay together.
//!
//! Invariant: the shares of all nodes cover everything and do not overlap, as far as the nodes see the same living ones.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use sip::id::ShardTag;

/// The nodes that live, this one among them.
#[derive(Default)]
pub(super) struct Shares {
    living: Vec<Arc<str>>,
}

impl Shares {
    pub fn among(living: Vec<Arc<str>>) -> Self {
        Self { living }
    }

    /// Whether this node is one of them.
    pub fn has(&self, node: &str) -> bool {
        self.living.iter().any(|living| **living == *node)
    }

    /// Whether no other node lives.
    pub fn is_alone(&self) -> bool {
        self.living.len() <= 1
    }

    /// Whether what carries this tag is for `node`.
    pub fn is_of(&self, node: &str, tag: ShardTag) -> bool {
        let best = self.living.iter().max_by_key(|living| weight(living, tag));
        best.is_none_or(|best| **best == *node)
    }
}

/// The same at every node and in every version. The name decides between equals, which no two nodes are.
fn weight(node: &str, tag: ShardTag) -> ([u8; 8], &str) {
    let mut bytes = tag.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(node.as_bytes());
    let hash = digest(&SHA256, &bytes);
    let mut weight = [0; 8];
    weight.copy_from_slice(&hash.as_ref()[..8]);
    (weight, node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 3] = ["a:5061", "b:5061", "c:5061"];

    fn among(nodes: &[&str]) -> Shares {
        Shares::among(nodes.iter().map(|node| (*node).into()).collect())
    }

    fn taker<'a>(nodes: &[&'a str], tag: u16) -> &'a str {
        let shares = among(nodes);
        let mut takers = nodes.iter().filter(|node| shares.is_of(node, ShardTag(tag)));
        let taker = takers.next().unwrap();
        assert_eq!(takers.next(), None, "one for each");
        taker
    }

    #[test]
    fn each_living_node_has_about_the_same_share() {
        for node in NODES {
            let share = (0..3000).filter(|tag| taker(&NODES, *tag) == node).count();
            assert!((850..1150).contains(&share), "{node}: {share} of 3000");
        }
    }

    #[test]
    fn when_a_node_goes_only_its_share_moves() {
        for tag in 0..1000 {
            let (before, after) = (taker(&NODES, tag), taker(&NODES[..2], tag));
            assert!(before == after || before == NODES[2], "{tag}");
        }
    }

    #[test]
    fn alone_a_node_takes_all() {
        assert!((0..100).all(|tag| among(&["a"]).is_of("a", ShardTag(tag)) && among(&[]).is_of("a", ShardTag(tag))));
    }
}
