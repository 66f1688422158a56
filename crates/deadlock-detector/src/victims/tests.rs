//! Against an oracle that knows nothing of components: it walks every path.

use proptest::prelude::*;

use super::*;

fn graph(nodes: usize, pairs: &[(usize, usize)]) -> Graph {
    let mut next = vec![Vec::new(); nodes];
    for &(from, to) in pairs {
        if from != to && !next[from].contains(&to) {
            next[from].push(to);
        }
    }
    next.iter_mut().for_each(|holders| holders.sort_unstable());
    Graph { names: (0..nodes).map(|node| Node::Loop(format!("l{node:02}"))).collect(), next, any: vec![false; nodes] }
}

/// Every simple cycle, as the set of its nodes.
fn cycles(graph: &Graph) -> Vec<u32> {
    fn walk(graph: &Graph, start: usize, node: usize, path: u32, found: &mut Vec<u32>) {
        for &child in &graph.next[node] {
            if child == start {
                found.push(path);
            } else if child > start && path & 1 << child == 0 {
                walk(graph, start, child, path | 1 << child, found);
            }
        }
    }
    let mut found = Vec::new();
    for start in 0..graph.next.len() {
        walk(graph, start, start, 1 << start, &mut found);
    }
    found
}

fn hits_all(cycles: &[u32], set: u32) -> bool {
    cycles.iter().all(|cycle| cycle & set != 0)
}

fn as_set(nodes: &[usize]) -> u32 {
    nodes.iter().map(|node| 1_u32 << node).sum()
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (any::<bool>(), 1_i64..4, 0_usize..3, 0_i64..3).prop_map(|(recent, priority, leases, since)| Candidate {
        recent,
        priority,
        leases,
        since: Timestamp::from_millis(since),
    })
}

/// Graphs in which some nodes are no candidates and some go on as soon as one of those they wait for does.
fn mixed(nodes: usize, most_edges: usize) -> impl Strategy<Value = (Graph, Vec<Option<Candidate>>)> {
    let others = prop::collection::vec((0_u8..4, any::<bool>()), nodes);
    (world(nodes, most_edges), others).prop_map(|((mut graph, mut candidates), others)| {
        for (node, (kind, any)) in others.into_iter().enumerate() {
            if kind == 0 {
                candidates[node] = None;
                graph.any[node] = any;
                graph.names[node] = Node::Test { id: format!("t{node:02}"), loop_id: "l".to_owned() };
            }
        }
        (graph, candidates)
    })
}

/// Who never goes on, found by letting those go who can until nobody can.
fn held(graph: &Graph, gone: u32) -> u32 {
    let mut held = ((1_u64 << graph.next.len()) - 1) as u32 & !gone;
    loop {
        let waits = |holder: &usize| held & 1 << *holder != 0;
        let goes = (0..graph.next.len()).find(|node| {
            let next = &graph.next[*node];
            let held_up = if graph.any[*node] { !next.is_empty() && next.iter().all(waits) } else { next.iter().any(waits) };
            held & 1 << *node != 0 && !held_up
        });
        match goes {
            Some(node) => held &= !(1 << node),
            None => return held,
        }
    }
}

fn world(nodes: usize, most_edges: usize) -> impl Strategy<Value = (Graph, Vec<Option<Candidate>>)> {
    let edges = prop::collection::vec((0..nodes, 0..nodes), 0..most_edges);
    let candidates = prop::collection::vec(candidate(), nodes);
    (edges, candidates).prop_map(move |(edges, candidates)| (graph(nodes, &edges), candidates.into_iter().map(Some).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_cycle_remains_and_no_better_set_of_victims_exists((graph, candidates) in world(7, 18)) {
        let within = vec![true; 7];
        let chosen = victims(&graph, &within, &candidates);
        let cycles = cycles(&graph);
        prop_assert!(hits_all(&cycles, as_set(&chosen)));
        let own = cost(&chosen, &candidates);
        for set in 0_u32..1 << 7 {
            if hits_all(&cycles, set) {
                prop_assert!(set.count_ones() as usize >= chosen.len());
                let members: Vec<usize> = (0..7).filter(|node| set & 1 << node != 0).collect();
                // Fewest, then fewest recent ones: the first two are sums, so they hold for the whole graph as well.
                let other = cost(&members, &candidates);
                prop_assert!((own.0, own.1) <= (other.0, other.1));
            }
        }
        // In one entanglement the whole order holds.
        if let [component] = &graph.components(&within)[..] {
            let inside = as_set(component);
            for set in (0_u32..1 << 7).filter(|set| set & !inside == 0 && hits_all(&cycles, *set)) {
                let members: Vec<usize> = (0..7).filter(|node| set & 1 << node != 0).collect();
                prop_assert!(own <= cost(&members, &candidates));
            }
        }
    }

    #[test]
    fn a_large_entanglement_is_broken_and_nobody_is_named_in_vain((graph, candidates) in world(18, 34)) {
        let chosen = victims(&graph, &[true; 18], &candidates);
        let cycles = cycles(&graph);
        prop_assert!(hits_all(&cycles, as_set(&chosen)));
        for &victim in &chosen {
            prop_assert!(!hits_all(&cycles, as_set(&chosen) & !(1 << victim)));
        }
    }

    /// Every set of up to twelve loops is tried, whatever else is in the component.
    #[test]
    fn up_to_twelve_loops_the_best_set_is_found_beside_tests_as_well((graph, candidates) in mixed(12, 30)) {
        let all = (1_u32 << 12) - 1;
        let able = as_set(&(0..12).filter(|node| candidates[*node].is_some()).collect::<Vec<_>>());
        // What nobody's giving way ends is no matter of victims; those who are only behind it are not either.
        let mut within = vec![true; 12];
        let beyond = graph.components(&graph.stuck(&(0..12).map(|node| able & 1 << node == 0).collect::<Vec<_>>()));
        beyond.into_iter().flatten().for_each(|node| within[node] = false);
        let gone = as_set(&(0..12).filter(|node| !within[*node]).collect::<Vec<_>>());
        let stuck: Vec<bool> = graph.stuck(&within);
        prop_assert_eq!(as_set(&(0..12).filter(|node| stuck[*node]).collect::<Vec<_>>()), held(&graph, gone));

        let chosen = victims(&graph, &within, &candidates);
        prop_assert_eq!(as_set(&chosen) & !able, 0);
        prop_assert_eq!(held(&graph, gone | as_set(&chosen)), 0);
        let own = cost(&chosen, &candidates);
        let components = joined_components(&graph, &stuck);
        let inside: u32 = components.iter().map(|component| as_set(component)).sum();
        for set in (0..=all).filter(|set| set & !(able & inside) == 0 && set.count_ones() as usize <= chosen.len()) {
            if held(&graph, gone | set) == 0 {
                let members: Vec<usize> = (0..12).filter(|node| set & 1 << node != 0).collect();
                let other = cost(&members, &candidates);
                prop_assert!((own.0, own.1) <= (other.0, other.1));
                // The rest of the order holds within each entanglement.
                prop_assert!(components.len() > 1 || own <= other, "{:?} instead of {:?}", chosen, members);
            }
        }
    }

    /// Beyond twelve: at least as many as cycles that do not meet, and nobody in vain.
    #[test]
    fn beyond_twelve_nobody_is_named_in_vain_beside_tests_as_well((graph, candidates) in mixed(24, 60)) {
        let mut within = vec![true; 24];
        let deaf: Vec<bool> = candidates.iter().map(Option::is_none).collect();
        graph.components(&graph.stuck(&deaf)).into_iter().flatten().for_each(|node| within[node] = false);
        let gone = as_set(&(0..24).filter(|node| !within[*node]).collect::<Vec<_>>());
        let chosen = victims(&graph, &within, &candidates);
        prop_assert_eq!(held(&graph, gone | as_set(&chosen)), 0);
        for &victim in &chosen {
            prop_assert!(held(&graph, gone | as_set(&chosen) & !(1 << victim)) != 0, "{} in vain of {:?}", victim, chosen);
        }
    }

    #[test]
    fn components_are_what_the_oracle_says((graph, _) in world(8, 20)) {
        let in_component: u32 = graph.components(&[true; 8]).iter().map(|component| as_set(component)).sum();
        let in_cycle = cycles(&graph).into_iter().fold(0, |all, cycle| all | cycle);
        prop_assert_eq!(in_component, in_cycle);
    }
}

#[test]
fn who_is_no_candidate_is_never_named() {
    let graph = graph(4, &[(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]);
    let facts = Candidate { recent: false, priority: 1, leases: 0, since: Timestamp::from_millis(0) };
    let mut candidates = vec![Some(facts); 4];
    assert_eq!(victims(&graph, &[true; 4], &candidates).len(), 2);
    candidates[1] = None;
    assert_eq!(victims(&graph, &[true; 4], &candidates), [0, 2]);
}

#[test]
fn one_pass_names_a_limited_number_of_victims() {
    let nodes = 400;
    let pairs: Vec<(usize, usize)> =
        (0..nodes).flat_map(|node| [(node, (node + 1) % nodes), ((node + 1) % nodes, node)]).collect();
    let graph = graph(nodes, &pairs);
    let facts = Candidate { recent: false, priority: 1, leases: 0, since: Timestamp::from_millis(0) };
    let candidates = vec![Some(facts); nodes];
    let mut within = vec![true; nodes];
    let mut passes = 0;
    loop {
        let chosen = victims(&graph, &within, &candidates);
        if chosen.is_empty() {
            break;
        }
        assert!(chosen.len() < MAX_VICTIMS + EXACT);
        chosen.into_iter().for_each(|victim| within[victim] = false);
        passes += 1;
    }
    assert!(passes > 1);
    assert!(graph.components(&within).is_empty());
}

/// A thousand loops in one entanglement, each of which waits for seven others.
#[test]
fn a_thousand_entangled_loops_take_a_bounded_time_and_end_free() {
    let nodes = 1_000;
    let step = |node: usize, at: usize| (node * (2 * at + 1) + 1 + at * at * 37) % nodes;
    let pairs: Vec<(usize, usize)> =
        (0..nodes).flat_map(|node| (0..6).map(move |at| (node, step(node, at))).chain([(node, (node + 1) % nodes)])).collect();
    let graph = graph(nodes, &pairs);
    let all = vec![true; nodes];
    assert_eq!(graph.components(&graph.stuck(&all))[0].len(), nodes);
    let facts = Candidate { recent: false, priority: 1, leases: 0, since: Timestamp::from_millis(0) };
    let candidates = vec![Some(facts); nodes];
    let mut within = all;
    let mut passes = 0;
    while !graph.components(&graph.stuck(&within)).is_empty() {
        let chosen = victims(&graph, &within, &candidates);
        assert!(!chosen.is_empty() && chosen.len() < MAX_VICTIMS + EXACT);
        chosen.into_iter().for_each(|victim| within[victim] = false);
        passes += 1;
    }
    assert!(passes <= nodes.div_ceil(MAX_VICTIMS), "{passes}");
}
