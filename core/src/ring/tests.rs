use super::*;

fn members(weights: &[u32]) -> Vec<Member> {
    (90..).zip(weights).map(|(port, weight)| Member::new(format!("127.0.0.1:{port}"), *weight)).collect()
}

#[test]
fn refuses_impossible_sizes_and_says_what_to_do() {
    let envoy = |minimum, maximum| Algorithm::RingHash(RingSize::Envoy { minimum, maximum });
    let virtual_nodes = |count| Algorithm::RingHash(RingSize::VirtualNodes(count));
    let maglev = |table_size| Algorithm::Maglev { table_size };
    let cases = [
        (envoy(2, 1), "minimum ring size 2 is above the maximum ring size 1: lower one or raise the other"),
        (envoy(0, 1), "minimum ring size is 0: make it at least 1"),
        (envoy(0, 0), "minimum ring size is 0: make it at least 1"),
        (envoy(1, MAXIMUM_POINTS + 1), "maximum ring size is 8388609: make it at most 8388608"),
        (virtual_nodes(0), "virtual nodes is 0: make it at least 1"),
        (virtual_nodes(u32::MAX), "virtual nodes is 4294967295: make it at most 8388608"),
        (maglev(0), "maglev table size is 0: make it at least 1"),
        (maglev(1), "maglev table size 1 is not a prime: take 2"),
        (maglev(65_536), "maglev table size 65536 is not a prime: take 65537"),
        (maglev(5_000_012), "maglev table size is 5000012: make it at most 5000011"),
    ];

    for (algorithm, message) in cases {
        assert_eq!(algorithm.validate().unwrap_err().to_string(), message);
        assert!(Ring::build(&members(&[1]), algorithm).is_err(), "{algorithm:?} was built");
    }
}

#[test]
fn accepts_the_defaults_and_the_limits() {
    for algorithm in [
        Algorithm::default(),
        Algorithm::RingHash(RingSize::ENVOY_DEFAULT),
        Algorithm::RingHash(RingSize::Envoy { minimum: MAXIMUM_POINTS, maximum: MAXIMUM_POINTS }),
        Algorithm::Maglev { table_size: 2 },
        Algorithm::Maglev { table_size: DEFAULT_TABLE_SIZE },
        Algorithm::Maglev { table_size: MAXIMUM_TABLE_SIZE },
        Algorithm::Rendezvous,
    ] {
        assert_eq!(algorithm.validate(), Ok(()));
    }
}

#[test]
fn refuses_a_member_of_weight_zero() {
    let error = Ring::build(&members(&[1, 0]), Algorithm::default()).unwrap_err();

    assert_eq!(
        error.to_string(),
        "member 127.0.0.1:91 has weight 0: make it at least 1, or leave the member out"
    );
}

#[test]
fn refuses_more_points_than_fit_before_it_makes_them() {
    let error = Ring::build(&members(&[1, u32::MAX]), Algorithm::default()).unwrap_err();

    assert_eq!(error, RingError::TooManyPoints { points: 2_199_023_255_552, limit: MAXIMUM_POINTS });
}

#[test]
fn is_empty_without_members() {
    for algorithm in [Algorithm::default(), Algorithm::Maglev { table_size: 7 }, Algorithm::Rendezvous] {
        let ring = Ring::build(&[], algorithm).unwrap();

        assert!(ring.is_empty());
        assert_eq!(ring.candidates(1).next(), None);
    }
}

#[test]
fn gives_the_first_of_two_equal_keys_its_points() {
    let twice = [members(&[1]), members(&[1])].concat();

    for algorithm in [Algorithm::default(), Algorithm::Rendezvous] {
        let ring = Ring::build(&twice, algorithm).unwrap();

        assert_eq!(ring.candidates(12_345).collect::<Vec<_>>(), [0, 1]);
    }
}

#[test]
fn says_how_many_candidates_are_left() {
    let ring = Ring::build(&members(&[1; 20]), Algorithm::default()).unwrap();
    let mut candidates = ring.candidates(7);

    assert_eq!(candidates.len(), 20);
    candidates.next();
    assert_eq!(candidates.len(), 19);
    assert_eq!(candidates.count(), 19);
}

#[test]
fn counts_points_and_members_on_the_ring() {
    let four = members(&[1; 4]);
    let sparse = Algorithm::RingHash(RingSize::Envoy { minimum: 2, maximum: 2 });

    assert_eq!(Ring::build(&four, Algorithm::default()).unwrap().point_count(), 2_048);
    assert_eq!(Ring::build(&four, sparse).unwrap().len(), 2);
    assert_eq!(Ring::build(&four, Algorithm::Maglev { table_size: 3 }).unwrap().len(), 3);
    assert_eq!(Ring::build(&four, Algorithm::Maglev { table_size: 7 }).unwrap().point_count(), 7);
    assert_eq!(Ring::build(&four, Algorithm::Rendezvous).unwrap().point_count(), 4);
}
