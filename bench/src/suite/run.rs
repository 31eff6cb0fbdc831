//! Scenarios one after the other; in each, rounds in which every contender has its turn.

use std::time::{Duration, Instant};

use super::contender::Running;
use super::{Contender, Figure, Ground, Results, Scenario, proof};

/// What is to be run.
#[derive(Clone)]
pub struct Plan {
    /// In this order.
    pub scenarios: Vec<Scenario>,
    /// Those that take part, where a scenario has them.
    pub contenders: Vec<&'static dyn Contender>,
    /// Of each scenario.
    pub rounds: usize,
    /// Of each flow.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Figures and who was absent.
    pub results: Results,
    /// What a contender that the suite cannot do without failed at.
    pub failures: Vec<String>,
}

/// Runs all of `plan`, with a line for whatever is done.
pub fn run(plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let start = Instant::now();
    for (i, scenario) in plan.scenarios.iter().enumerate() {
        println!("\n[{}/{}] {}: {}", i + 1, plan.scenarios.len(), scenario.name, scenario.what);
        match Ground::build(scenario) {
            Ok(ground) => rounds(plan, scenario, &ground, start, &mut outcome),
            Err(error) => {
                // What the other scenarios give is worth keeping.
                println!("its lab cannot be built: {error:#}");
                outcome.failures.push(format!("the lab of {}: {error:#}", scenario.name));
            }
        }
    }
    outcome
}

/// All rounds of a scenario.
fn rounds(plan: &Plan, scenario: &Scenario, ground: &Ground, start: Instant, outcome: &mut Outcome) {
    let turns = bring_up(plan, scenario, ground, outcome);
    for round in 0..plan.rounds {
        for job in &scenario.jobs {
            let taking_part: Vec<_> = turns.iter().filter(|turn| job.has(turn.contender.name())).collect();
            for turn in order(&taking_part, round) {
                let (measure, contender) = (job.measure.name(), turn.contender.name());
                let measured = job.measure.run(&turn.running.arena, plan.time * scenario.stretch);
                let said = measured
                    .as_ref()
                    .map_or_else(|error| format!("failed: {error:#}"), |figures| line(figures));
                let (elapsed, name, of) = (start.elapsed().as_secs(), scenario.name, plan.rounds);
                println!(
                    "{elapsed:>5} s  {name}  round {}/{of}  {measure:<16} {contender:<13} {said}",
                    round + 1
                );
                match measured {
                    Ok(figures) => outcome.results.add(name, contender, round, figures),
                    Err(_) => outcome
                        .note(turn.contender, format!("{measure} in {name}, round {}: {said}", round + 1)),
                }
            }
        }
    }
    if ground.dropped() > 0 {
        println!("the forwarder had no room for {} frames", ground.dropped());
    }
}

/// No place in the order is anyone's: each round begins with another one, until all have begun one, and every other
/// round goes backwards, so that no one always follows the same.
fn order<T>(taking_part: &[T], round: usize) -> impl Iterator<Item = &T> {
    let count = taking_part.len();
    // With no divisor in common, and over the few rounds that there are all over the order.
    let stride = if count.is_multiple_of(3) { 1 } else { 3 };
    (0..count).map(move |turn| {
        let step = if round % 2 == 1 { count - turn } else { turn };
        &taking_part[(round * stride + step) % count]
    })
}

/// A contender in its lab.
struct Turn<'a> {
    contender: &'static dyn Contender,
    running: Running<'a>,
}

/// Sets up all that take part, and proves of each that it carries what it should. The others are noted.
fn bring_up<'a>(
    plan: &Plan,
    scenario: &Scenario,
    ground: &'a Ground,
    outcome: &mut Outcome,
) -> Vec<Turn<'a>> {
    let mut turns = Vec::new();
    for &contender in plan.contenders.iter().filter(|contender| scenario.has(contender.name())) {
        let up = contender.up(ground.lab()).and_then(|running| {
            proof::check(ground.lab(), &running.arena, contender)?;
            Ok(running)
        });
        match up {
            Ok(running) => turns.push(Turn { contender, running }),
            Err(error) => {
                println!("{} is absent: {error:#}", contender.name());
                outcome.note(contender, format!("absent in {}: {error:#}", scenario.name));
            }
        }
    }
    let names: Vec<_> = turns.iter().map(|turn| turn.contender.name()).collect();
    println!("up, and seen to carry frames as they should: {}", names.join(", "));
    turns
}

impl Outcome {
    fn note(&mut self, contender: &'static dyn Contender, what: String) {
        if contender.required() {
            self.failures.push(format!("{}: {what}", contender.name()));
        }
        self.results.absent.push((contender.name().to_owned(), what));
    }
}

fn line(figures: &[Figure]) -> String {
    let one = |f: &Figure| format!("{} {:.3} {}", f.name, f.value, f.unit);
    figures.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everyone_has_a_turn_in_each_round_and_not_always_the_same_place() {
        for count in 0..12 {
            let all: Vec<usize> = (0..count).collect();
            let rounds: Vec<Vec<usize>> = (0..5).map(|round| order(&all, round).copied().collect()).collect();
            for round in &rounds {
                let mut sorted = round.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, all);
            }
            if count > 1 {
                let follows = |round: &Vec<usize>| {
                    let at = round.iter().position(|turn| *turn == 1).unwrap();
                    at.checked_sub(1).map(|before| round[before])
                };
                assert!(rounds.iter().any(|round| follows(round) != follows(&rounds[0])), "{rounds:?}");
            }
            let begun: HashSet<usize> = rounds.iter().filter_map(|round| round.first().copied()).collect();
            assert_eq!(begun.len(), count.min(rounds.len()), "{rounds:?}");
            let all_begin = (0..count).filter_map(|round| order(&all, round).next().copied());
            assert_eq!(all_begin.collect::<HashSet<_>>().len(), count);
        }
    }
}
