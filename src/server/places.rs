//! How many connections there may be, of all clients and of one address. When a limit is reached, the connection that has
//! been idle longest gives its place to a new one. So does one whose client takes nothing of its answers. When all
//! answer, a new one may still ask for `/health`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activity::Activity;

/// Connections beyond the limits that may ask for `/health` alone.
const RESERVED_PLACES: usize = 16;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Of all clients.
    pub total: usize,
    /// Of one address, or of one IPv6 network with a prefix of 64 bits.
    pub per_address: usize,
}

/// The places of connections.
#[derive(Debug)]
pub(super) struct Places {
    limits: ConnectionLimits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    reserved: bool,
    activity: Arc<Activity>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    /// Whether only `/health` is answered, because all usual places are taken.
    pub(super) reserved: bool,
    pub(super) activity: Arc<Activity>,
}

impl Places {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            taken: Mutex::default(),
        })
    }

    /// A place for a new connection, perhaps that of an idle one, which ends; `None` if there is none at all.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = network(peer);
        let mut taken = self.taken();
        let usual = |entry: &Entry| !entry.reserved;
        let own = |entry: &Entry| !entry.reserved && entry.address == address;
        let is_free = taken.has_room(self.limits.per_address, own)
            && taken.has_room(self.limits.total, usual);
        if !is_free && !taken.has_room(RESERVED_PLACES, |entry| entry.reserved) {
            return None;
        }
        let activity = Activity::new();
        let id = taken.next;
        taken.next += 1;
        taken.entries.insert(
            id,
            Entry {
                address,
                reserved: !is_free,
                activity: Arc::clone(&activity),
            },
        );
        Some(Place {
            places: Arc::clone(self),
            id,
            reserved: !is_free,
            activity,
        })
    }

    /// Ends the connection that has been idle longest; the system has no descriptor for another one.
    pub(super) fn evict_idle(&self) {
        self.taken().evict_idle(|_| true);
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Whether fewer of these connections than `limit` are there, or one of them could be evicted.
    fn has_room(&mut self, limit: usize, of: impl Fn(&Entry) -> bool) -> bool {
        self.entries.values().filter(|entry| of(entry)).count() < limit || self.evict_idle(of)
    }

    fn evict_idle(&mut self, of: impl Fn(&Entry) -> bool) -> bool {
        let idle = self.entries.iter().filter(|(_, entry)| of(entry));
        let idle = idle.filter_map(|(id, entry)| Some((entry.activity.idle_since()?, *id)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        // The oldest may have begun to answer since.
        let evicted = idle.iter().find_map(|(_, id)| {
            let entry = self.entries.get(id)?;
            entry.activity.evict().then_some(*id)
        });
        evicted.is_some_and(|id| self.entries.remove(&id).is_some())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().entries.remove(&self.id);
    }
}

/// The address by which a client is counted: an IPv6 network is one client's.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use poem::http::Version;

    use super::super::activity::STALL_DEADLINE;
    use super::*;

    fn places(total: usize, per_address: usize) -> Arc<Places> {
        Places::new(ConnectionLimits { total, per_address })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_evicted(places: &Places, place: &Place) -> bool {
        !places.taken().entries.contains_key(&place.id)
    }

    #[test]
    fn connections_whose_clients_take_nothing_give_their_places_away() {
        let places = places(1, 1);
        let all: Vec<_> = (0..=RESERVED_PLACES)
            .map(|_| {
                let place = places.admit(address(1)).unwrap();
                let request = place.activity.begin(Version::HTTP_2).unwrap();
                request.has_computed(Some(2));
                (place, request)
            })
            .collect();
        assert!(places.admit(address(2)).is_none());
        for (place, _) in &all {
            place.activity.pass(STALL_DEADLINE);
        }
        let next = places.admit(address(2)).unwrap();
        assert!(!next.reserved && is_evicted(&places, &all[0].0));
    }

    #[test]
    fn one_more_than_there_are_places_takes_that_of_the_oldest_idle_one() {
        let places = places(2, 2);
        let (first, second) = (
            places.admit(address(1)).unwrap(),
            places.admit(address(2)).unwrap(),
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
        // The first has been idle for less time than the second.
        drop(first.activity.begin(Version::HTTP_11));
        first.activity.has_flushed();
        let third = places.admit(address(3)).unwrap();
        assert!(!third.reserved && is_evicted(&places, &second) && !is_evicted(&places, &first));
        let _answers = (
            first.activity.begin(Version::HTTP_11),
            third.activity.begin(Version::HTTP_11),
        );
        let fourth = places.admit(address(4)).unwrap();
        assert!(fourth.reserved && !is_evicted(&places, &first) && !is_evicted(&places, &third));
    }

    #[test]
    fn an_address_has_its_own_limit() {
        let places = places(8, 2);
        let own: Vec<_> = (0..2).map(|_| places.admit(address(1)).unwrap()).collect();
        let other = places.admit(address(2)).unwrap();
        let third = places.admit(address(1)).unwrap();
        assert_eq!(
            own.iter()
                .filter(|place| is_evicted(&places, place))
                .count(),
            1
        );
        assert!(!is_evicted(&places, &other) && !third.reserved);
    }

    #[test]
    fn reserved_places_are_limited_and_given_to_the_newest() {
        let places = places(1, 1);
        let usual = places.admit(address(1)).unwrap();
        let _answer = usual.activity.begin(Version::HTTP_11);
        let reserved: Vec<_> = (0..RESERVED_PLACES)
            .map(|_| places.admit(address(1)).unwrap())
            .collect();
        assert!(reserved.iter().all(|place| place.reserved));
        let newest = places.admit(address(1)).unwrap();
        assert!(newest.reserved);
        assert_eq!(
            reserved
                .iter()
                .filter(|place| is_evicted(&places, place))
                .count(),
            1
        );
        let answers: Vec<_> = reserved
            .iter()
            .chain([&newest])
            .map(|place| place.activity.begin(Version::HTTP_11))
            .collect();
        assert!(places.admit(address(1)).is_none());
        drop((answers, reserved, newest));
        assert!(places.admit(address(1)).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
    }
}
