//! What every program's `--json` has.

use serde_json::Value;

/// Asserts that nothing is missing; `own` is what this program has besides.
pub fn assert_complete(json: &Value, own: &[&str]) {
    let keys = [
        "train_loss",
        "boss_ops",
        "assist_ops",
        "full_ops",
        "ops_saved",
        "instances_trained",
        "candidates_seen",
        "steps",
        "wall_seconds",
        "instances_per_second",
        "host_syncs",
        "loss_records_dropped",
        "batches_unscored",
        "feed_stall_seconds",
        "feedback_lag_steps",
        "device",
        "seed",
        "run_dir",
    ];
    for key in keys.iter().chain(own) {
        assert!(!json[key].is_null(), "{key} is missing in {json}");
    }
}
