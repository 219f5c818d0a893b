//! Trees whose runtime directory is no more.

use super::*;

/// Where a tree is, in all hierarchies.
fn places(tree: &Tree) -> Vec<PathBuf> {
    let branches = tree.0.branches.iter();
    branches.map(|branch| branch.above.path().join(&tree.0.name)).collect()
}

#[test]
fn a_tree_that_nobody_holds_is_removed_unless_something_is_in_it() {
    for ground in Ground::each("deserted") {
        let [held, empty, used] = [1, 2, 3].map(|number| {
            let tag = format!("{:x}-{number:x}", std::process::id());
            Tree::open(&ground.tree.0.layout, &tag).expect("a tree")
        });
        let [_, _, slot] = [&held, &empty, &used].map(|it| Slot::make(it, "a").expect("a slot"));
        let mut child = shell(&slot, "echo in; exec sleep 600");
        assert_eq!(line(&mut child), "in");
        let [at, empty_at, used_at] = [&held, &empty, &used].map(places);
        let is_there = |at: &[PathBuf]| at.iter().any(|path| path.exists());
        drop((empty, slot, used));
        ground.tree.remove_deserted().expect("looked");
        assert!(!is_there(&empty_at), "{empty_at:?}");
        assert!(is_there(&used_at), "{used_at:?}");
        assert!(at.iter().all(|path| path.exists()), "{at:?}");
        child.kill().expect("killed");
        child.wait().expect("waited");
        drop(held);
        // What has died leaves its group a moment later.
        await_that("what nobody holds is removed", || {
            ground.tree.remove_deserted().expect("looked");
            !is_there(&used_at) && !is_there(&at)
        });
    }
}
