//! How often warps execute each basic block of machine code, from what was counted of the same source
//! compiled for another processor.
//!
//! Compilers unroll, hoist and share, so that a line's instructions are executed more or less often
//! than the line. What no compiler changes is how often warps access memory, multiply matrices and
//! meet; that is counted exactly, by line, and each such line's instructions in the machine code have
//! to add up to it: by the bytes that a lane accesses, as one of them may take for all of some neighbours
//! what is counted one by one. Between blocks Kirchhoff's law holds: as many warps leave as come. What neither
//! says a block's lines say, roughly. The unknowns are flows between blocks, of which those are
//! wanted that contradict the least, by the sum of absolute differences (least squares, weighted anew
//! again and again), so that a few lines that compilers see differently count for little.

use super::{Code, Instruction};
use crate::simt::counts::{Chain, Done, Event, Trace, asking, file_of};
use std::collections::{BTreeMap, BTreeSet};

/// How far the different kinds of equations are trusted.
const EXACT: f64 = 1.0;
/// Of an instruction with a predicate, which is executed also where no lane does anything.
const PREDICATED: f64 = 0.3;
/// That a block is executed no more often than its lines, and about as often.
const AT_MOST: f64 = 0.5;
const ABOUT: f64 = 0.02;
/// That nobody calls the functions that the compiler has for rare cases: roots of subnormal numbers,
/// quotients that overflow.
const RARE: f64 = 0.2;
/// That as little is executed as can be, for each instruction: of a loop that is unrolled and the one for
/// what is left over, both of which would explain what was counted, the first.
const LITTLE: f64 = 1e-5;
/// That no flow runs backwards.
const FORWARD: f64 = 10.0;
const ROUNDS: usize = 40;

/// What an instruction does that was counted.
pub fn event(i: &Instruction) -> Option<Event> {
    Some(match i.base() {
        "LDG" => Event::GlobalRead,
        "STG" => Event::GlobalWrite,
        "ATOMG" | "RED" => Event::GlobalAtomic,
        "LDS" | "LDSM" => Event::SharedRead,
        "STS" | "LDGSTS" => Event::SharedWrite,
        "ATOMS" => Event::SharedAtomic,
        "HMMA" => Event::Mma,
        "HGMMA" => Event::Wgmma,
        "BAR" => Event::Barrier,
        _ => return None,
    })
}

/// `a * flows = value`, with a weight. The terms are edges, each with a factor.
struct Equation {
    terms: Vec<(usize, f64)>,
    value: f64,
    weight: f64,
    /// Only if the left side is the larger one.
    at_most: bool,
}

/// From a block to another; to none, where warps end.
struct Edge {
    from: Option<usize>,
    to: Option<usize>,
}

/// Executions of each block by all of these many warps together. Inside everything is a warp's share, so
/// that a difference of one is what each warp does once.
pub fn executions(code: &Code, trace: &Trace, warps: u64) -> Vec<f64> {
    if code.blocks.is_empty() {
        return Vec::new();
    }
    let edges = edges(code);
    let into = |block: usize| {
        let all = edges.iter().enumerate();
        let into = all.filter(move |(_, edge)| edge.to == Some(block));
        into.map(|(at, _)| (at, 1.0))
    };
    let warps = warps as f64;
    let mut equations = equations(code, trace, warps, |block| into(block).collect());
    equations.extend(edges.iter().enumerate().map(|(at, edge)| {
        let length = edge.to.map_or(1, |to| code.blocks[to].instructions.len());
        Equation {
            terms: vec![(at, 1.0)],
            value: 0.0,
            weight: LITTLE * length as f64,
            at_most: false,
        }
    }));
    let flows = solve(&equations, &laws(code, &edges), edges.len());
    let sum = |block| {
        into(block)
            .map(|(edge, _)| warps * flows[edge].max(0.0))
            .sum()
    };
    (0..code.blocks.len()).map(sum).collect()
}

fn edges(code: &Code) -> Vec<Edge> {
    let mut seen = BTreeSet::from([0]);
    let mut waiting = vec![0];
    let mut edges = vec![Edge {
        from: None,
        to: Some(0),
    }];
    while let Some(block) = waiting.pop() {
        let from = Some(block);
        for &next in &code.blocks[block].next {
            let to = Some(next);
            edges.push(Edge { from, to });
            if seen.insert(next) {
                waiting.push(next);
            }
        }
        if code.blocks[block].ends {
            edges.push(Edge { from, to: None });
        }
    }
    edges
}

/// Kirchhoff's, and that all warps begin: rows of factors, the right side last.
fn laws(code: &Code, edges: &[Edge]) -> Vec<Vec<f64>> {
    let mut rows = vec![vec![0.0; edges.len() + 1]; code.blocks.len() + 1];
    for (at, edge) in edges.iter().enumerate() {
        if let Some(to) = edge.to {
            rows[to][at] += 1.0;
        }
        match edge.from {
            Some(from) => rows[from][at] -= 1.0,
            None => {
                rows[code.blocks.len()][at] = 1.0;
                rows[code.blocks.len()][edges.len()] = 1.0;
            }
        }
    }
    rows
}

/// The line that asks for what is done.
fn line(chain: &Chain) -> &str {
    asking(chain).split(' ').next().unwrap_or_default()
}

/// Where something counts that a chain's line does: at the line with all its callers, at each caller by what
/// is directly inside of it, and at the line whoever calls it.
fn places(chain: &Chain) -> Vec<(&str, Option<&str>)> {
    let own = asking(chain);
    let mut places = vec![(own, None)];
    let mut rest = own;
    while let Some((_, caller)) = rest.split_once(' ') {
        places.push((caller, Some(rest)));
        rest = caller;
    }
    if own.contains(' ') {
        places.push((line(chain), None));
    }
    places
}

/// What was counted.
fn equations(
    code: &Code,
    trace: &Trace,
    warps: f64,
    into: impl Fn(usize) -> Vec<(usize, f64)>,
) -> Vec<Equation> {
    // What was counted, and instances in the machine code with their blocks, by event and place: the line
    // itself; and callers with all that they call.
    let mut counted: BTreeMap<(Event, &str), Done> = BTreeMap::new();
    let mut below: BTreeMap<(Event, &str), BTreeSet<&str>> = BTreeMap::new();
    for ((event, chain), done) in &trace.events {
        for (place, inside) in places(chain) {
            *counted.entry((*event, place)).or_default() += *done;
            below.entry((*event, place)).or_default().extend(inside);
        }
    }
    let mut found: BTreeMap<(Event, &str), Vec<(usize, &Instruction)>> = BTreeMap::new();
    let mut called: BTreeMap<(Event, &str), BTreeSet<&str>> = BTreeMap::new();
    for (at, block) in code.blocks.iter().enumerate() {
        for i in &code.instructions[block.instructions.clone()] {
            let Some(event) = event(i) else { continue };
            for (place, inside) in places(&code.chains[i.chain]) {
                let key = (event, place);
                found.entry(key).or_default().push((at, i));
                called.entry(key).or_default().extend(inside);
            }
        }
    }
    let mut equations = Vec::new();
    for (key @ (event, place), instances) in &found {
        let Some(done) = counted.get(key) else {
            continue;
        };
        // Of what a caller calls each by itself, if both compilers see the same calls there; and not
        // twice what is the same.
        let caller = place.split_once(' ').map(|(_, caller)| (*event, caller));
        let differs = caller.is_some_and(|caller| below[&caller] != called[&caller]);
        let same = below[key].len() == 1 && below[key] == called[key];
        if differs || same {
            continue;
        }
        // What each does of what was counted.
        let share = |i: &Instruction| match i.width() {
            Some(bytes) if done.bytes > 0 => bytes / done.width(),
            _ => 1.0,
        };
        let terms = instances.iter().flat_map(|(block, i)| {
            let share = share(i);
            let edges = into(*block).into_iter();
            edges.map(move |(edge, factor)| (edge, factor * share))
        });
        let predicated = instances.iter().any(|(_, i)| i.predicated);
        let trust = if predicated { PREDICATED } else { EXACT };
        equations.push(Equation {
            terms: terms.collect(),
            value: done.times as f64 / warps,
            weight: trust / instances.len() as f64,
            at_most: false,
        });
    }
    equations.extend(by_lines(code, trace, warps, &into));
    equations
}

/// That blocks are executed as often as their lines.
fn by_lines(
    code: &Code,
    trace: &Trace,
    warps: f64,
    into: &impl Fn(usize) -> Vec<(usize, f64)>,
) -> Vec<Equation> {
    let mut of_line: BTreeMap<&str, f64> = BTreeMap::new();
    let mut of_chain: BTreeMap<&str, f64> = BTreeMap::new();
    for (chain, times) in &trace.lines {
        let most = of_chain.entry(asking(chain)).or_default();
        *most = most.max(*times as f64 / warps);
        let most = of_line.entry(line(chain)).or_default();
        *most = most.max(*times as f64 / warps);
    }
    let events = trace
        .events
        .keys()
        .map(|(event, chain)| (*event, line(chain)));
    let counted: BTreeSet<(Event, &str)> = events.collect();
    let files: BTreeSet<&str> = of_line.keys().map(|place| file_of(place)).collect();
    let mut equations = Vec::new();
    // Of each block the line in the middle, by how often they were executed.
    let mut said: Vec<(usize, f64, &str, bool)> = Vec::new();
    for (at, block) in code.blocks.iter().enumerate() {
        let instructions = &code.instructions[block.instructions.clone()];
        if instructions.iter().any(|i| i.base() == "CALL") {
            equations.push(Equation {
                terms: into(at),
                value: 0.0,
                weight: RARE,
                at_most: false,
            });
            continue;
        }
        // How often warps ask whether something has come in time says of the machine that they run on.
        if instructions.iter().any(|i| i.base() == "SYNCS") {
            continue;
        }
        let mut times: Vec<(f64, &str)> = Vec::new();
        for i in instructions {
            let chain = &code.chains[i.chain];
            let place = line(chain);
            let exact = of_chain.get(asking(chain)).or_else(|| of_line.get(place));
            // A line that was never executed, in a file of which others were.
            let never = files.contains(file_of(place)).then_some(&0.0);
            times.extend(exact.or(never).map(|times| (*times, asking(chain))));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(&(value, chain)) = times.get(times.len() / 2) else {
            continue;
        };
        // What was counted says more than a line does.
        let is_counted = instructions.iter().any(|i| {
            let event = event(i).map(|event| (event, line(&code.chains[i.chain])));
            event.is_some_and(|event| counted.contains(&event))
        });
        said.push((at, value, chain, is_counted));
    }
    // A loop that is unrolled with branches in it has the same line in many blocks, which share it.
    let mut copies: BTreeMap<&str, f64> = BTreeMap::new();
    for (_, _, chain, _) in &said {
        *copies.entry(chain).or_default() += 1.0;
    }
    for (at, value, chain, is_counted) in said {
        let mut add = |value: f64, weight: f64, at_most: bool| {
            equations.push(Equation {
                terms: into(at),
                value,
                weight,
                at_most,
            });
        };
        add(value, AT_MOST, true);
        if !is_counted {
            add(value / copies[chain], ABOUT / copies[chain], false);
        }
    }
    equations
}

/// The unknowns for which the laws hold, and the equations as far as they can. Unknowns that the laws
/// determine are eliminated first: each is a constant and a sum over the free ones.
fn solve(equations: &[Equation], laws: &[Vec<f64>], count: usize) -> Vec<f64> {
    let (pivots, rows) = eliminated(laws, count);
    let free: Vec<usize> = (0..count).filter(|at| !pivots.contains_key(at)).collect();
    // Each unknown over the free ones, the constant last.
    let over = |unknown: usize| -> Vec<f64> {
        match pivots.get(&unknown) {
            Some(&row) => {
                let factors = free.iter().map(|at| -rows[row][*at]);
                factors.chain([rows[row][count]]).collect()
            }
            None => {
                let own = free.iter().map(|at| f64::from(u8::from(*at == unknown)));
                own.chain([0.0]).collect()
            }
        }
    };
    let unknowns: Vec<Vec<f64>> = (0..count).map(over).collect();
    let reduced: Vec<Vec<f64>> = equations
        .iter()
        .map(|equation| {
            let mut row = vec![0.0; free.len() + 1];
            for (unknown, factor) in &equation.terms {
                for (sum, own) in row.iter_mut().zip(&unknowns[*unknown]) {
                    *sum += factor * own;
                }
            }
            row
        })
        .collect();
    let value = |row: &[f64], free: &[f64]| -> f64 {
        let products = row.iter().zip(free).map(|(a, b)| a * b);
        products.sum::<f64>() + row[row.len() - 1]
    };
    let mut solution = vec![0.0; free.len()];
    for round in 0..ROUNDS {
        let mut normal = vec![vec![0.0; free.len() + 1]; free.len()];
        let mut add = |row: &[f64], value: f64, weight: f64| {
            let right = value - row[row.len() - 1];
            for (i, &a) in row[..free.len()].iter().enumerate() {
                if a == 0.0 {
                    continue;
                }
                for (sum, b) in normal[i].iter_mut().zip(&row[..free.len()]) {
                    *sum += weight * a * b;
                }
                normal[i][free.len()] += weight * a * right;
            }
        };
        for (equation, row) in equations.iter().zip(&reduced) {
            let off = value(row, &solution) - equation.value;
            if equation.at_most && (round == 0 || off <= 0.0) {
                continue;
            }
            // Absolute differences: a square divided by what it was before.
            let before = if round == 0 { 1.0 } else { off.abs().max(1e-3) };
            add(row, equation.value, equation.weight / before);
        }
        for row in &unknowns {
            let backwards = -value(row, &solution);
            if round > 0 && backwards > 1e-6 {
                add(row, 0.0, FORWARD / backwards.max(1e-3));
            }
        }
        if let Some(next) = cholesky(normal) {
            solution = next;
        }
    }
    unknowns.iter().map(|row| value(row, &solution)).collect()
}

/// Gauss and Jordan: the row of each unknown that is determined, and the rows.
fn eliminated(laws: &[Vec<f64>], count: usize) -> (BTreeMap<usize, usize>, Vec<Vec<f64>>) {
    let mut rows = laws.to_vec();
    let mut pivots = BTreeMap::new();
    for row in 0..rows.len() {
        let at = (0..count).find(|at| rows[row][*at].abs() > 1e-9);
        let Some(at) = at else { continue };
        let pivot = rows[row][at];
        rows[row].iter_mut().for_each(|v| *v /= pivot);
        let own = rows[row].clone();
        for (other, values) in rows.iter_mut().enumerate() {
            let factor = values[at];
            if other == row || factor == 0.0 {
                continue;
            }
            for (value, own) in values.iter_mut().zip(&own) {
                *value -= factor * own;
            }
        }
        pivots.insert(at, row);
    }
    (pivots, rows)
}

/// The solution of a symmetric positive definite system, whose right side is each row's last; none if it
/// is not definite.
fn cholesky(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = rows.len();
    let largest = (0..n).map(|i| rows[i][i]).fold(0.0, f64::max);
    for (i, row) in rows.iter_mut().enumerate() {
        row[i] += 1e-12 * largest;
    }
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| rows[i][k] * rows[j][k]).sum();
            let rest = rows[i][j] - sum;
            if i == j {
                if rest <= 0.0 {
                    return None;
                }
                rows[i][i] = rest.sqrt();
            } else {
                rows[i][j] = rest / rows[j][j];
            }
        }
    }
    let mut solution: Vec<f64> = rows.iter().map(|row| row[n]).collect();
    for (i, row) in rows.iter().enumerate() {
        let sum: f64 = row[..i].iter().zip(&solution).map(|(a, b)| a * b).sum();
        solution[i] = (solution[i] - sum) / row[i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| rows[k][i] * solution[k]).sum();
        solution[i] = (solution[i] - sum) / rows[i][i];
    }
    Some(solution)
}
