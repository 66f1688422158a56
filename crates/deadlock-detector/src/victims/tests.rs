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

/// Every simple circle, as the set of its nodes.
fn circles(graph: &Graph) -> Vec<u32> {
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

fn hits_all(circles: &[u32], set: u32) -> bool {
    circles.iter().all(|circle| circle & set != 0)
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

fn world(nodes: usize, most_edges: usize) -> impl Strategy<Value = (Graph, Vec<Option<Candidate>>)> {
    let edges = prop::collection::vec((0..nodes, 0..nodes), 0..most_edges);
    let candidates = prop::collection::vec(candidate(), nodes);
    (edges, candidates).prop_map(move |(edges, candidates)| (graph(nodes, &edges), candidates.into_iter().map(Some).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_circle_remains_and_no_better_set_of_victims_exists((graph, candidates) in world(7, 18)) {
        let within = vec![true; 7];
        let chosen = victims(&graph, &within, &candidates);
        let circles = circles(&graph);
        prop_assert!(hits_all(&circles, as_set(&chosen)));
        let own = cost(&chosen, &candidates);
        for set in 0_u32..1 << 7 {
            if hits_all(&circles, set) {
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
            for set in (0_u32..1 << 7).filter(|set| set & !inside == 0 && hits_all(&circles, *set)) {
                let members: Vec<usize> = (0..7).filter(|node| set & 1 << node != 0).collect();
                prop_assert!(own <= cost(&members, &candidates));
            }
        }
    }

    #[test]
    fn a_large_entanglement_is_broken_and_nobody_is_named_in_vain((graph, candidates) in world(18, 34)) {
        let chosen = victims(&graph, &[true; 18], &candidates);
        let circles = circles(&graph);
        prop_assert!(hits_all(&circles, as_set(&chosen)));
        for &victim in &chosen {
            prop_assert!(!hits_all(&circles, as_set(&chosen) & !(1 << victim)));
        }
    }

    #[test]
    fn components_are_what_the_oracle_says((graph, _) in world(8, 20)) {
        let in_component: u32 = graph.components(&[true; 8]).iter().map(|component| as_set(component)).sum();
        let in_circle = circles(&graph).into_iter().fold(0, |all, circle| all | circle);
        prop_assert_eq!(in_component, in_circle);
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
fn one_pass_names_so_many_and_no_more() {
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
        assert!(chosen.len() < MOST_VICTIMS + EXACT);
        chosen.into_iter().for_each(|victim| within[victim] = false);
        passes += 1;
    }
    assert!(passes > 1);
    assert!(graph.components(&within).is_empty());
}
