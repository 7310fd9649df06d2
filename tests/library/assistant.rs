//! The Assistant over whole runs, with a simulated Boss.

use crate::boss::{Boss, Run, SLOTS, config, drawn, instances, is_hard, phase, sentence_pairs};
use autoassist::assist::{
    AssistConfig, AssistError, AssistState, Assistant, Batch, Feedback, Feeder, FeederConfig,
    Inputs, Instances, Phase, Preset, Quality,
};
use autoassist::rng::hash;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

const PRESETS: [Preset; 5] = [
    Preset::Memory,
    Preset::Paper,
    Preset::Random,
    Preset::InfoBatch,
    Preset::Off,
];

#[test]
fn the_sweeps_come_out_at_e_and_the_phases_are_kept() {
    for (preset, budget) in [
        (Preset::Memory, 0.65),
        (Preset::Paper, 0.65),
        (Preset::Random, 0.65),
        (Preset::Memory, 0.3),
        (Preset::Memory, 0.9),
    ] {
        let mut run = Run::new(5000, config(preset, 50, budget));
        let batches = run.all();
        let plan = run.assistant.plan();
        assert_eq!(batches.len() as u64, (budget * 800.0).ceil() as u64);
        assert!(batches.iter().all(|b| b.ids.len() == 50));
        let sweeps = drawn(&batches) as f64 / 5000.0;
        assert!(
            (sweeps - 8.0).abs() < 0.08,
            "{preset:?} {budget}: {sweeps} sweeps"
        );
        let nominal = 0.8 * budget / (1.0 - 0.2 * budget);
        for batch in &batches {
            let selecting = phase(plan, batch) == Phase::Select;
            assert!(selecting || (!batch.scored && batch.candidates == 50));
        }
        // Just before the anneal there may be no more candidates left than are needed: then all are
        // kept.
        let scored = batches.iter().filter(|b| b.scored).count();
        let choices = batches
            .iter()
            .filter(|b| phase(plan, b) == Phase::Select)
            .count();
        let expected = if preset == Preset::Random { 0 } else { choices };
        assert!(
            expected.saturating_sub(2) <= scored && scored <= expected,
            "{preset:?} {budget}: {scored}"
        );
        // The rate is met all along, not only on the whole.
        let selected: Vec<&Batch> = batches
            .iter()
            .filter(|b| phase(plan, b) == Phase::Select)
            .collect();
        for part in selected.chunks(selected.len() / 4) {
            let candidates: u64 = part.iter().map(|b| b.candidates).sum();
            let rate = (part.len() * 50) as f64 / candidates as f64;
            assert!(
                (rate / nominal - 1.0).abs() < 0.08,
                "{preset:?} {budget}: {rate} for {nominal}"
            );
        }
    }
}

#[test]
fn equal_costs_whatever_they_are_give_equal_batches() {
    for preset in PRESETS {
        let mut config = config(preset, 32, 0.6);
        config.rescale = 0.5;
        let mut costly = Instances::clone(&instances(700));
        costly.costs = vec![7_000_000_007; 700];
        let expected = Run::new(700, config).all();
        let mut batches = Run::over(Arc::new(costly), config).all();
        for batch in &mut batches {
            for cost in [&mut batch.cost, &mut batch.offered] {
                assert!(cost.is_multiple_of(7_000_000_007));
                *cost /= 7_000_000_007;
            }
        }
        assert!(batches == expected, "{preset:?}");
    }
}

#[test]
fn the_sweeps_come_out_at_e_by_cost_where_the_hard_is_costly() {
    for (preset, budget) in [
        (Preset::Memory, 0.65),
        (Preset::Memory, 0.4),
        (Preset::Paper, 0.65),
        (Preset::Random, 0.65),
    ] {
        let mut instances = Instances::clone(&instances(5000));
        let cost = |id: u32| 100 + 400 * u64::from(is_hard(id)) + hash(13, u64::from(id), 0) % 50;
        instances.costs = (0..5000).map(cost).collect();
        let sweep = instances.costs.iter().sum::<u64>() as f64;
        let mut run = Run::over(Arc::new(instances), config(preset, 50, budget));
        let batches = run.all();
        let plan = run.assistant.plan();
        let of = |value: fn(&Batch) -> u64| batches.iter().map(value).sum::<u64>() as f64;
        let last = batches.last().unwrap().cost as f64;
        let over = of(|b| b.cost) - budget * 8.0 * sweep;
        assert!(0.0 <= over && over <= last, "{preset:?} {budget}: {over}");
        let sweeps = of(|b| b.offered) / sweep;
        assert!(
            (sweeps - 8.0).abs() < 0.08,
            "{preset:?} {budget}: {sweeps} sweeps"
        );
        // The rate is met from the beginning, not by catching up later.
        let nominal = 0.8 * budget / (1.0 - 0.2 * budget);
        let mut spent = 0;
        let mut selected = Vec::new();
        for batch in &batches {
            if plan.phase(spent) == Phase::Select {
                selected.push(batch);
            }
            spent += batch.cost;
        }
        for part in selected.chunks_exact(selected.len() / 4) {
            let (cost, offered) = part.iter().fold((0, 0), |(cost, offered), b| {
                (cost + b.cost, offered + b.offered)
            });
            let rate = cost as f64 / offered as f64;
            assert!(
                (rate / nominal - 1.0).abs() < 0.08,
                "{preset:?} {budget}: {rate} for {nominal}"
            );
        }
        // What is preferred costs more, so there are fewer of it.
        let number = (batches.len() * 50) as f64 / (budget * 8.0 * 5000.0);
        match preset {
            Preset::Random => assert!((number - 1.0).abs() < 0.02, "{number}"),
            _ => assert!(number < 0.985, "{preset:?} {budget}: {number}"),
        }
    }
}

#[test]
fn hard_sentences_are_told_by_their_words_once_the_labels_are_foretold() {
    for preset in [Preset::Paper, Preset::Memory] {
        let mut config = config(preset, 64, 0.6);
        config.epochs = 16.0;
        let mut run = Run::over(sentence_pairs(4000), config);
        let batches = run.all();
        let sweep = run.instances.costs.iter().sum::<u64>() as f64;
        let sweeps = batches.iter().map(|b| b.offered).sum::<u64>() as f64 / sweep;
        assert!((sweeps - 16.0).abs() < 0.16, "{preset:?}: {sweeps}");
        let share = |batches: &[Batch]| {
            let ids: Vec<u32> = batches.iter().flat_map(|b| b.ids.clone()).collect();
            ids.iter().filter(|&&id| is_hard(id)).count() as f64 / ids.len() as f64
        };
        let even = share(&batches[..60]);
        let chosen = share(&batches[batches.len() / 2..batches.len() * 3 / 4]);
        assert!(chosen > 1.4 * even, "{preset:?}: {chosen} of {even}");
    }
    let mut other = Instances::clone(&sentence_pairs(100));
    other.costs.pop();
    let error = Assistant::new(config(Preset::Paper, 10, 0.6), Arc::new(other)).unwrap_err();
    assert!(error.to_string().contains("costs are missing"), "{error}");
}

#[test]
fn words_that_foretell_nothing_have_no_say() {
    let mut config = config(Preset::Paper, 50, 0.4);
    config.rescale = 1.0;
    let instances = sentence_pairs(2000);
    let mut assistant = Assistant::new(config, instances.clone()).unwrap();
    let sweeps = Mutex::new(assistant.sweeps());
    let (mut offered, mut chosen) = (0, 0);
    for number in 0..128 {
        let batch = assistant.compose(number, &sweeps);
        offered += batch.offered;
        if batch.scored {
            chosen += 50;
            assert!(batch.candidates > 50);
            let first = batch.weights[0];
            assert!(first > 1.0, "as it is");
            assert!(
                batch.weights.iter().all(|&w| w == first),
                "of one probability"
            );
        }
        let loss = |row: u64| (hash(14, number, row) % 2) as f32;
        assistant.apply(&Feedback {
            step: number,
            ids: batch.ids,
            losses: (0..50).map(loss).collect(),
            right: vec![false; 50],
        });
    }
    let sweeps = offered as f64 / instances.costs.iter().sum::<u64>() as f64;
    assert!((sweeps - 8.0).abs() < 0.16, "{sweeps}");
    let bins = assistant.quality().calibration();
    assert_eq!(bins.iter().map(|b| b.count).sum::<u64>(), chosen);
    let auc = assistant.quality().auc().unwrap();
    assert!((auc - 0.5).abs() < 0.05, "{auc}");
}

#[test]
fn off_is_even_sweeps_at_no_cost_and_remembers() {
    for (budget, sweeps) in [(1.0, 8), (0.5, 4)] {
        let mut run = Run::new(1000, config(Preset::Off, 40, budget));
        let batches = run.all();
        assert!(
            batches
                .iter()
                .all(|b| b.candidates == 40 && !b.scored && b.keep_rate == 1.0)
        );
        assert!(run.boss.visits.iter().all(|&v| v == sweeps));
        assert_eq!(run.assistant.ops(), 0);
    }
    let mut full = Run::new(1000, config(Preset::Memory, 40, 1.0));
    assert_eq!(
        drawn(&full.all()),
        8000,
        "at full budget there is nothing to choose"
    );
}

/// Share of hard instances among those trained on in the selecting phase.
fn hard_share(preset: Preset) -> f64 {
    let mut config = config(preset, 64, 0.6);
    config.epochs = 16.0;
    let mut run = Run::new(4000, config);
    let plan = run.assistant.plan();
    let batches = run.all();
    let chosen = batches.iter().filter(|b| phase(plan, b) == Phase::Select);
    let ids: Vec<u32> = chosen.flat_map(|b| b.ids.clone()).collect();
    ids.iter().filter(|&&id| is_hard(id)).count() as f64 / ids.len() as f64
}

#[test]
fn memory_prefers_what_is_still_hard_and_random_does_not() {
    let share = (0..4000).filter(|&id| is_hard(id)).count() as f64 / 4000.0;
    let random = hard_share(Preset::Random);
    assert!((random / share - 1.0).abs() < 0.05, "{random} of {share}");
    // At a keep rate of 0.545 and a floor of 0.27, keeping all hard ones would be 1.83 times their
    // share.
    let memory = hard_share(Preset::Memory);
    assert!(memory > 1.5 * share, "{memory} of {share}");
    // One of its inputs tells, and it learns slowly.
    let paper = hard_share(Preset::Paper);
    assert!(paper > 1.3 * share, "{paper} of {share}");
}

#[test]
fn quality_is_measured_on_a_uniform_sample_of_the_candidates() {
    for (preset, least) in [(Preset::Memory, 0.8), (Preset::Paper, 0.7)] {
        let mut run = Run::new(4000, config(preset, 50, 0.6));
        let batches = run.all();
        let selected = batches
            .iter()
            .filter(|b| b.scored && b.number + SLOTS < batches.len() as u64);
        let candidates: u64 = selected.map(|b| b.candidates).sum();
        let quality = run.assistant.quality();
        let bins = quality.calibration();
        // The floor of 0.3 is above half the keep rate, so that is the floor.
        let share = bins.iter().map(|b| b.count).sum::<u64>() as f64 / candidates as f64;
        let floor = 0.5 * 0.8 * 0.6 / (1.0 - 0.2 * 0.6);
        assert!((share / floor - 1.0).abs() < 0.05, "{share} {floor}");
        // A fifth of the instances are hard, and are nearly all that is above the mean.
        let auc = quality.auc().unwrap();
        assert!(auc > least, "{preset:?}: {auc}");
    }
    for preset in [Preset::Random, Preset::InfoBatch, Preset::Off] {
        let mut run = Run::new(500, config(preset, 50, 0.6));
        run.all();
        assert_eq!(run.assistant.quality().auc(), None);
    }
}

#[test]
fn infobatch_prunes_half_of_the_easy_and_keeps_the_expected_gradient() {
    let mut run = Run::new(1000, config(Preset::InfoBatch, 40, 0.65));
    let plan = run.assistant.plan();
    let batches = run.all();
    assert_eq!(batches.len(), 130, "the budget");
    let (chosen, whole): (Vec<&Batch>, Vec<&Batch>) = batches
        .iter()
        .partition(|b| phase(plan, b) == Phase::Select);
    // One sweep at the beginning, an eighth of the budget at the end.
    assert_eq!(whole.len(), 25 + 16);
    assert!(whole.iter().all(|b| b.weights.is_empty() && !b.scored));
    let all = |of: fn(&Batch) -> Vec<f32>| chosen.iter().flat_map(|b| of(b)).collect::<Vec<_>>();
    let weights = all(|b| b.weights.clone());
    assert!(weights.iter().all(|&w| w == 1.0 || w == 2.0));
    let hard: Vec<bool> = chosen
        .iter()
        .flat_map(|b| b.ids.iter().map(|&id| is_hard(id)))
        .collect();
    let of = |value: f32, is: bool| {
        let all = weights.iter().zip(&hard);
        all.filter(|&(&w, &h)| w == value && h == is).count()
    };
    // Which instances are easy shows from the second visit on.
    let odds = |is: bool| of(2.0, is) as f64 / of(1.0, is) as f64;
    let (easy, hard) = (odds(false), odds(true));
    assert!(easy > 3.0 * hard, "{easy} {hard}");
    let candidates: u64 = chosen.iter().map(|b| b.candidates).sum();
    let ratio = f64::from(weights.iter().sum::<f32>()) / candidates as f64;
    assert!((ratio - 1.0).abs() < 0.03, "{ratio}");
    // A mean a sweep, two comparisons a candidate, a weight an instance.
    let sweeps = candidates.div_ceil(1000);
    let ops = sweeps * 1001 + 2 * candidates + weights.len() as u64;
    assert_eq!(run.assistant.ops(), ops);
}

#[test]
fn inputs_are_needed_where_they_are_read() {
    let mut without = Instances::clone(&instances(100));
    without.inputs = Inputs::None;
    let new = |preset| Assistant::new(config(preset, 10, 0.6), Arc::new(without.clone()));
    assert!(new(Preset::Memory).is_ok());
    let error = new(Preset::Paper).unwrap_err().to_string();
    assert!(error.contains("inputs are missing"), "{error}");
    assert!(new(Preset::InfoBatch).is_ok());
}

#[test]
fn weights_undo_the_choice_and_go_as_far_as_all_candidates() {
    let mut config = config(Preset::Memory, 64, 0.6);
    config.rescale = 1.0;
    let mut run = Run::new(4000, config);
    let plan = run.assistant.plan();
    let (mut hard, mut total, mut candidates) = (0.0, 0.0, 0);
    for batch in run.all() {
        if phase(plan, &batch) != Phase::Select {
            assert!(batch.weights.is_empty());
            continue;
        }
        candidates += batch.candidates;
        assert!(batch.weights.iter().all(|&w| w >= 1.0));
        // p lies between the floor, half the rate at most, and 1.
        let (least, most) = batch
            .weights
            .iter()
            .fold((f32::MAX, 0f32), |(a, b), &w| (a.min(w), b.max(w)));
        assert!(most / least <= 1.0 / 0.2, "{most} {least}");
        for (&id, &w) in batch.ids.iter().zip(&batch.weights) {
            hard += if is_hard(id) { f64::from(w) } else { 0.0 };
            total += f64::from(w);
        }
    }
    let goes = total / candidates as f64;
    assert!((goes - 1.0).abs() < 0.05, "{goes} of all candidates' way");
    let share = (0..4000).filter(|&id| is_hard(id)).count() as f64 / 4000.0;
    assert!(
        (hard / total / share - 1.0).abs() < 0.05,
        "{} of {share}",
        hard / total
    );
}

#[test]
fn data_hardly_larger_than_a_batch() {
    for preset in PRESETS {
        for n in [1, 32, 33, 50, 64, 80] {
            let mut run = Run::new(n, config(preset, n.min(32), 0.65));
            let batches = run.all();
            assert!(drawn(&batches) <= 2 * 8 * n as u64, "{preset:?} {n}");
        }
    }
    let error = Assistant::new(config(Preset::Off, 33, 1.0), instances(32)).unwrap_err();
    assert_eq!(
        error,
        AssistError::Batch {
            batch: 33,
            instances: 32
        }
    );
}

#[test]
fn operations_are_counted_from_shapes() {
    let mut run = Run::new(2000, config(Preset::Memory, 50, 0.65));
    for number in 0..SLOTS {
        run.step(number);
    }
    assert_eq!(
        run.assistant.ops(),
        0,
        "nothing scored, nothing learned yet"
    );
    run.step(SLOTS);
    // Learning from 50 records: 8 + 2 features, 7 classes. Features 89, logits 21, σ and residual
    // 25, gradients 42, labels and averages 5 an instance; 7 a weight.
    assert_eq!(run.assistant.ops(), 50 * (89 + 21 + 25 + 42 + 5) + 7 * 17);
    // The published one: 12 bytes. Logits 26, gradient 24, σ and residual 25, label, sums and class 7
    // an instance; 3 a weight to fold, 7 to learn; 8 a batch.
    let mut paper = Run::new(2000, config(Preset::Paper, 50, 0.65));
    (0..=SLOTS).for_each(|number| drop(paper.step(number)));
    assert_eq!(paper.assistant.ops(), 50 * (26 + 24 + 25 + 7) + 10 * 12 + 8);
    let mut random = Run::new(2000, config(Preset::Random, 50, 0.65));
    random.all();
    assert_eq!(random.assistant.ops(), 0);
}

/// Delays without a clock: gives up the processor some number of times, drawn from the seed.
fn dawdle(seed: u64, step: u64) {
    for _ in 0..hash(seed, step, 0) % 40 {
        std::thread::yield_now();
    }
}

fn coupling(deterministic: bool) -> FeederConfig {
    FeederConfig {
        slots: SLOTS as usize,
        deterministic,
    }
}

/// Batches, the Assistant's operations, its quality.
type Outcome = (Vec<Batch>, u64, Quality);

/// Trains `steps` batches through a feeder, feedback as late as the credits allow or at once, as
/// the seed wills. If `stop` is given, saves there and goes on from the saved state.
fn train(
    instances: &Arc<Instances>,
    config: AssistConfig,
    steps: u64,
    seed: u64,
    stop: Option<u64>,
) -> Outcome {
    let n = instances.len();
    let assistant = Assistant::new(config, instances.clone()).unwrap();
    let mut feeder = Feeder::spawn(assistant.clone(), coupling(true)).unwrap();
    let mut boss = Boss { visits: vec![0; n] };
    let mut pending = VecDeque::new();
    let mut batches = Vec::new();
    for step in 0..steps {
        if stop == Some(step) {
            for feedback in pending.drain(..) {
                feeder.feedback(feedback).unwrap();
            }
            dawdle(seed, step);
            let bytes = postcard::to_stdvec(&feeder.snapshot().unwrap()).unwrap();
            let state: AssistState = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(state.step(), step);
            drop(feeder);
            feeder = Feeder::restore(assistant.clone(), coupling(true), state).unwrap();
        }
        let keep = hash(seed, step, 1) % (SLOTS - 1);
        while pending.len() as u64 > keep {
            feeder.feedback(pending.pop_front().unwrap()).unwrap();
        }
        dawdle(seed, step);
        let batch = feeder.next().unwrap();
        pending.push_back(boss.train(&batch));
        batches.push(batch);
    }
    // However far the thread runs ahead, the figures are those of the batches taken.
    dawdle(seed, steps);
    let stats = feeder.stats();
    assert_eq!((stats.loss_records_dropped, stats.batches_unscored), (0, 0));
    assert_eq!(stats.feedback_lag_steps, SLOTS as f64);
    assert_eq!(stats.candidates_seen, drawn(&batches));
    assert_eq!(
        stats.offered,
        batches.iter().map(|b| b.offered).sum::<u64>()
    );
    assert!(stats.assist_cpu_seconds > 0.0);
    (batches, stats.assist_ops, feeder.quality())
}

#[test]
fn deterministic_runs_are_equal_whatever_the_timing_and_where_they_were_resumed() {
    let (images, sentences) = (instances(700), sentence_pairs(700));
    for (instances, preset, seeds) in [
        (&images, Preset::Memory, 0..6),
        (&images, Preset::Paper, 6..8),
        (&images, Preset::InfoBatch, 8..10),
        (&sentences, Preset::Memory, 10..12),
        (&sentences, Preset::Paper, 12..14),
    ] {
        let mut config = config(preset, 32, 0.6);
        config.rescale = 0.5;
        let mut reference = Run::over(instances.clone(), config);
        let batches = reference.all();
        let steps = batches.len() as u64;
        let assistant = &reference.assistant;
        let expected = (batches, assistant.ops(), assistant.quality().clone());
        for seed in seeds {
            let stop = [
                None,
                Some(1),
                Some(steps / 4),
                Some(steps / 2),
                Some(steps - 3),
            ];
            for stop in stop {
                assert!(
                    train(instances, config, steps, seed, stop) == expected,
                    "{preset:?}, seed {seed}, resumed at {stop:?}"
                );
            }
        }
    }
}

#[test]
fn a_free_run_fills_every_batch_and_can_be_resumed() {
    let n = 900;
    let assistant = Assistant::new(config(Preset::Memory, 32, 0.65), instances(n)).unwrap();
    let steps = (0.65f64 * 8.0 * 900.0 / 32.0).ceil() as u64;
    let mut feeder = Feeder::spawn(assistant.clone(), coupling(false)).unwrap();
    let mut boss = Boss { visits: vec![0; n] };
    for step in 0..steps {
        if step == steps / 2 {
            let state = feeder.snapshot().unwrap();
            assert!(state.memory().visits(0) <= boss.visits[0]);
            let other = Assistant::new(config(Preset::Random, 32, 0.65), instances(n)).unwrap();
            let error = Feeder::restore(other, coupling(false), state.clone()).unwrap_err();
            assert!(matches!(error, AssistError::State(_)));
            feeder = Feeder::restore(assistant.clone(), coupling(false), state).unwrap();
        }
        let batch = feeder.next().unwrap();
        assert_eq!(batch.number, step);
        assert_eq!(batch.ids.iter().collect::<HashSet<_>>().len(), 32);
        assert!(batch.feedback_through.is_none_or(|through| through < step));
        feeder.feedback(boss.train(&batch)).unwrap();
        dawdle(7, step);
    }
    let state = feeder.snapshot().unwrap();
    let memory = state.memory();
    assert_eq!(memory.len(), n);
    assert!((0..n).all(|id| memory.visits(id) <= boss.visits[id]));
    assert!((0..n).any(|id| memory.average_loss(id).is_some_and(|x| x > 0.0)));
}

#[test]
fn by_v_as_much_is_kept_as_teaches_and_the_candidates_come_to_an_end() {
    for preset in [Preset::Memory, Preset::Random, Preset::Paper] {
        let mut config = config(preset, 50, 1.0);
        config.by_v = true;
        let all = if preset == Preset::Paper {
            sentence_pairs(4000)
        } else {
            instances(4000)
        };
        let sweep: u64 = all.costs.iter().sum();
        let mut run = Run::over(all, config);
        let (mut offered, mut number) = (0, 0);
        let (mut taken, mut wanted, mut candidates) = (0.0, 0.0, 0);
        while offered < 8 * sweep {
            let before = offered;
            // Known to whoever composes: the feedback of K steps before.
            let batch = run.step(number);
            let v = run.assistant.v();
            number += 1;
            offered += batch.offered;
            let share = before as f64 / (8 * sweep) as f64;
            if (0.1..0.88).contains(&share) {
                let v = v.expect("all were seen");
                taken += batch.cost as f64;
                wanted += v * batch.offered as f64;
                candidates += 1;
            } else if !(0.09..0.9).contains(&share) {
                assert_eq!(batch.keep_rate, 1.0, "all data first and last: {share}");
            }
        }
        assert!(candidates > 50);
        assert!(
            (taken / wanted - 1.0).abs() < 0.08,
            "{preset:?}: {}",
            taken / wanted
        );
    }
}
