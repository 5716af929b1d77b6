use super::*;
use crate::maglev;
use crate::tuple::FiveTuple;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn target(id: u16, state: TargetState) -> Target {
    Target { state, ..Target::new(TargetId(id), IpAddr::from([10, 1, 0, id as u8])) }
}

fn service(protocol: Option<u8>, port: Option<u16>, targets: &[u16]) -> Service {
    Service { protocol, port, ..Service::new(ip("192.0.2.1"), targets.iter().copied().map(TargetId).collect()) }
}

fn tuple(protocol: u8, vip_port: u16) -> FiveTuple {
    FiveTuple { protocol, remote: ip("10.9.0.1"), remote_port: 40000, vip: ip("192.0.2.1"), vip_port }
}

fn chosen(table: &ServiceTable, tuple: &FiveTuple) -> Result<IpAddr, Refusal> {
    table.choose(tuple).map(|index| table.target(index).unwrap().address)
}

#[test]
fn the_most_specific_service_wins() {
    let targets = (1..=4).map(|id| target(id, TargetState::Up)).collect();
    let services = vec![
        service(None, None, &[1]),
        service(Some(6), None, &[2]),
        service(None, Some(53), &[3]),
        service(Some(6), Some(53), &[4]),
    ];
    let table = ServiceTable::new(targets, services).unwrap();
    assert_eq!(chosen(&table, &tuple(17, 80)), Ok(ip("10.1.0.1")));
    assert_eq!(chosen(&table, &tuple(6, 80)), Ok(ip("10.1.0.2")));
    assert_eq!(chosen(&table, &tuple(17, 53)), Ok(ip("10.1.0.3")));
    assert_eq!(chosen(&table, &tuple(6, 53)), Ok(ip("10.1.0.4")));
    let elsewhere = FiveTuple { vip: ip("192.0.2.2"), ..tuple(6, 53) };
    assert_eq!(chosen(&table, &elsewhere), Err(Refusal::UnknownService));
}

#[test]
fn only_targets_that_are_up_get_new_connections() {
    let states = [TargetState::Drain, TargetState::Up, TargetState::Down];
    let targets: Vec<Target> = states.iter().zip(1..).map(|(&state, id)| target(id, state)).collect();
    let services = vec![service(Some(6), Some(80), &[1, 2, 3]), service(Some(6), Some(81), &[1, 3])];
    let table = ServiceTable::new(targets, services).unwrap();
    for remote_port in 0..500 {
        assert_eq!(chosen(&table, &FiveTuple { remote_port, ..tuple(6, 80) }), Ok(ip("10.1.0.2")));
    }
    assert_eq!(chosen(&table, &tuple(6, 81)), Err(Refusal::NoTargetUp));
    assert_eq!(table.state(ip("10.1.0.3")), Some(TargetState::Down));
    assert_eq!(table.state(ip("10.1.0.4")), None);
}

#[test]
fn a_target_that_goes_down_moves_no_connection_but_its_own() {
    let table = |state| {
        let targets = (1..=5).map(|id| target(id, if id == 3 { state } else { TargetState::Up })).collect();
        ServiceTable::new(targets, vec![service(Some(6), Some(80), &[1, 2, 3, 4, 5])]).unwrap()
    };
    let (before, after) = (table(TargetState::Up), table(TargetState::Down));
    let mut heirs = [0; 6];
    for remote_port in 1..20_000 {
        let connection = FiveTuple { remote_port, ..tuple(6, 80) };
        let (old, new) = (chosen(&before, &connection).unwrap(), chosen(&after, &connection).unwrap());
        if old == ip("10.1.0.3") {
            let IpAddr::V4(heir) = new else { panic!("{new}") };
            heirs[usize::from(heir.octets()[3])] += 1;
        } else {
            assert_eq!(new, old);
        }
    }
    // A fifth of all, by equal parts to the four others.
    assert_eq!((heirs[0], heirs[3]), (0, 0));
    assert!([1, 2, 4, 5].iter().all(|heir| (700..1300).contains(&heirs[*heir])), "{heirs:?}");
}

#[test]
fn refuses_what_makes_no_sense() {
    let up = |id| target(id, TargetState::Up);
    let error = |targets, services| ServiceTable::new(targets, services).unwrap_err();
    let vip = ip("192.0.2.1");
    assert_eq!(error(vec![up(1), up(1)], vec![]), ServiceError::DuplicateTargetId(TargetId(1)));
    let twin = Target { id: TargetId(2), ..up(1) };
    assert_eq!(error(vec![up(1), twin], vec![]), ServiceError::DuplicateTargetAddress(ip("10.1.0.1")));
    let unknown = ServiceError::UnknownTarget { vip, target: TargetId(9) };
    assert_eq!(error(vec![up(1)], vec![service(None, None, &[9])]), unknown);
    assert_eq!(error(vec![up(1)], vec![service(None, None, &[])]), ServiceError::NoTargets(vip));
    let twice = vec![service(Some(6), None, &[1]), service(Some(6), None, &[1])];
    assert_eq!(error(vec![up(1)], twice), ServiceError::DuplicateService { vip });
    let repeated = ServiceError::RepeatedTarget { vip, target: TargetId(1) };
    assert_eq!(error(vec![up(1)], vec![service(None, None, &[1, 1])]), repeated);
    let many: Vec<u16> = (0..=maglev::TARGETS_MAX as u16).collect();
    let targets = many.iter().map(|&id| Target::new(TargetId(id), IpAddr::from([10, 1, 1, id as u8]))).collect();
    assert!(matches!(error(targets, vec![service(None, None, &many)]), ServiceError::Lookup { .. }));
}
