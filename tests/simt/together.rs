//! Blocks that are there at the same time, and wait for one another.

use crate::launch::{Schedule, launch};

#[test]
fn blocks_meet_as_often_as_they_like() {
    // More blocks than the pool has threads, and again, on stacks that are there already.
    for blocks in [40_u32, 3, 64] {
        let mut values: Vec<i32> = (0..blocks as i32).map(|i| 100 * i).collect();
        let before = values.clone();
        launch("selftest_together", blocks, 64)
            .on(Schedule::Together)
            .run([(&mut values).into(), 5_i32.into()])
            .unwrap();
        for (i, value) in values.iter().enumerate() {
            let from = (i + blocks as usize * 2 - 5) % blocks as usize;
            assert_eq!(*value, before[from] + 5, "block {i} of {blocks}");
        }
    }
}

#[test]
fn one_block_is_a_grid() {
    let mut values = vec![7];
    launch("selftest_together", 1, 64)
        .run([(&mut values).into(), 3_i32.into()])
        .unwrap();
    assert_eq!(values, [10]);
}

#[test]
fn blocks_that_never_meet_are_told() {
    for block in [0_u32, 3, 5] {
        let leaves = launch("selftest_leaves_the_grid", 6, 33).on(Schedule::Together);
        let text = leaves.run([block.into()]).unwrap_err();
        let line = "sync of the grid at kernels/simt/selftest_together.cu:22: other blocks have \
                    returned";
        assert!(text.contains(line), "{text}");
        // The first that waits.
        let first = if block == 0 { "(1,0,0)" } else { "(0,0,0)" };
        assert!(text.contains(&format!("block {first}")), "{text}");
    }
}

#[test]
fn a_block_that_fails_ends_the_others() {
    let fails = launch("selftest_fails_alone", 8, 64).on(Schedule::Together);
    let text = fails.run([5_u32.into()]).unwrap_err();
    assert!(
        text.contains("block (5,0,0), thread (3,0,0): __trap()"),
        "{text}"
    );
}

#[test]
fn blocks_that_come_one_after_the_other_cannot_wait() {
    let mut values = vec![0; 2];
    let apart = launch("selftest_together", 2, 64);
    let text = apart.run([(&mut values).into(), 1_i32.into()]).unwrap_err();
    assert!(text.contains("of a cooperative launch"), "{text}");
}
