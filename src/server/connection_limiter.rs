//! Limits the number of open connections, in total and per client address. At a limit, a new connection evicts the
//! connection that has been idle or stalled longest. If none can be evicted, a few more connections are accepted for
//! `/health` only.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activity::Activity;

/// Maximum number of connections beyond the limits; these may request only `/health`.
const MAX_HEALTH_ONLY_CONNECTIONS: usize = 16;

/// Maximum numbers of open connections, in total and per client.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Maximum for all clients together.
    pub total: usize,
    /// Maximum per IPv4 address or IPv6 /64 network.
    pub per_address: usize,
}

/// Issues permits to new connections within the limits.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    limits: ConnectionLimits,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next_id: u64,
    connections: HashMap<u64, OpenConnection>,
}

#[derive(Debug)]
struct OpenConnection {
    address: IpAddr,
    health_only: bool,
    activity: Arc<Activity>,
}

/// Permission to keep a connection open; dropping the permit releases it.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
    /// Whether the connection may request only `/health`, because a limit was reached.
    pub(super) health_only: bool,
    pub(super) activity: Arc<Activity>,
}

impl ConnectionLimiter {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
        })
    }

    /// Returns a permit for a new connection; may evict another connection. Returns `None` if no connection can be
    /// evicted and all health-only permits are in use.
    pub(super) fn try_acquire(self: &Arc<Self>, peer: IpAddr) -> Option<ConnectionPermit> {
        let address = network(peer);
        let mut open = self.lock();
        let regular = |connection: &OpenConnection| !connection.health_only;
        let same_address =
            |connection: &OpenConnection| !connection.health_only && connection.address == address;
        let has_room = open.make_room(self.limits.per_address, same_address)
            && open.make_room(self.limits.total, regular);
        let health_only = |connection: &OpenConnection| connection.health_only;
        if !has_room && !open.make_room(MAX_HEALTH_ONLY_CONNECTIONS, health_only) {
            return None;
        }
        let activity = Activity::new();
        let id = open.next_id;
        open.next_id += 1;
        open.connections.insert(
            id,
            OpenConnection {
                address,
                health_only: !has_room,
                activity: Arc::clone(&activity),
            },
        );
        Some(ConnectionPermit {
            limiter: Arc::clone(self),
            id,
            health_only: !has_room,
            activity,
        })
    }

    /// Evicts the connection that has been idle or stalled longest, to free a file descriptor.
    pub(super) fn evict_idle(&self) {
        self.lock().evict_idle(|_| true);
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    /// Makes the number of matching connections smaller than `limit`, if necessary by evicting one of them. Returns
    /// `false` if none can be evicted.
    fn make_room(&mut self, limit: usize, matches: impl Fn(&OpenConnection) -> bool) -> bool {
        let matching = self.connections.values().filter(|entry| matches(entry));
        matching.count() < limit || self.evict_idle(matches)
    }

    /// Evicts the matching connection that has been idle or stalled longest. Returns `false` if none can be evicted.
    fn evict_idle(&mut self, matches: impl Fn(&OpenConnection) -> bool) -> bool {
        let matching = self.connections.iter().filter(|(_, entry)| matches(entry));
        let idle = matching.filter_map(|(id, entry)| Some((entry.activity.idle_since()?, *id)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        // A connection may have received a request since `idle_since` was called; `evict` then returns `false`.
        let evicted = idle.iter().find_map(|(_, id)| {
            let connection = self.connections.get(id)?;
            connection.activity.evict().then_some(*id)
        });
        evicted.is_some_and(|id| self.connections.remove(&id).is_some())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.lock().connections.remove(&self.id);
    }
}

/// Returns the address that limits per client apply to: an IPv4 address, or the /64 network of an IPv6 address.
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

    use super::super::activity::STALL_TIMEOUT;
    use super::*;

    fn limiter(total: usize, per_address: usize) -> Arc<ConnectionLimiter> {
        ConnectionLimiter::new(ConnectionLimits { total, per_address })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_evicted(limiter: &ConnectionLimiter, permit: &ConnectionPermit) -> bool {
        !limiter.lock().connections.contains_key(&permit.id)
    }

    #[test]
    fn evicts_a_stalled_connection() {
        let limiter = limiter(1, 1);
        let all: Vec<_> = (0..=MAX_HEALTH_ONLY_CONNECTIONS)
            .map(|_| {
                let permit = limiter.try_acquire(address(1)).unwrap();
                let request = permit.activity.begin_request(Version::HTTP_2).unwrap();
                request.record_poll(Some(2));
                (permit, request)
            })
            .collect();
        assert!(limiter.try_acquire(address(2)).is_none());
        for (permit, _) in &all {
            permit.activity.age_by(STALL_TIMEOUT);
        }
        let next = limiter.try_acquire(address(2)).unwrap();
        assert!(!next.health_only && is_evicted(&limiter, &all[0].0));
    }

    #[test]
    fn evicts_the_longest_idle_connection_at_the_total_limit() {
        let limiter = limiter(2, 2);
        let (first, second) = (
            limiter.try_acquire(address(1)).unwrap(),
            limiter.try_acquire(address(2)).unwrap(),
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
        // The first connection has been idle for less time than the second.
        drop(first.activity.begin_request(Version::HTTP_11));
        first.activity.record_flush();
        let third = limiter.try_acquire(address(3)).unwrap();
        assert!(
            !third.health_only && is_evicted(&limiter, &second) && !is_evicted(&limiter, &first)
        );
        let _requests = (
            first.activity.begin_request(Version::HTTP_11),
            third.activity.begin_request(Version::HTTP_11),
        );
        let fourth = limiter.try_acquire(address(4)).unwrap();
        assert!(
            fourth.health_only && !is_evicted(&limiter, &first) && !is_evicted(&limiter, &third)
        );
    }

    #[test]
    fn the_limit_per_address_evicts_a_connection_of_that_address() {
        let limiter = limiter(8, 2);
        let permits: Vec<_> = (0..2)
            .map(|_| limiter.try_acquire(address(1)).unwrap())
            .collect();
        let other = limiter.try_acquire(address(2)).unwrap();
        let third = limiter.try_acquire(address(1)).unwrap();
        assert_eq!(
            permits
                .iter()
                .filter(|permit| is_evicted(&limiter, permit))
                .count(),
            1
        );
        assert!(!is_evicted(&limiter, &other) && !third.health_only);
    }

    #[test]
    fn health_only_connections_are_limited_and_evicted_when_idle() {
        let limiter = limiter(1, 1);
        let regular = limiter.try_acquire(address(1)).unwrap();
        let _request = regular.activity.begin_request(Version::HTTP_11);
        let health_only: Vec<_> = (0..MAX_HEALTH_ONLY_CONNECTIONS)
            .map(|_| limiter.try_acquire(address(1)).unwrap())
            .collect();
        assert!(health_only.iter().all(|permit| permit.health_only));
        let newest = limiter.try_acquire(address(1)).unwrap();
        assert!(newest.health_only);
        assert_eq!(
            health_only
                .iter()
                .filter(|permit| is_evicted(&limiter, permit))
                .count(),
            1
        );
        let requests: Vec<_> = health_only
            .iter()
            .chain([&newest])
            .map(|permit| permit.activity.begin_request(Version::HTTP_11))
            .collect();
        assert!(limiter.try_acquire(address(1)).is_none());
        drop((requests, health_only, newest));
        assert!(limiter.try_acquire(address(1)).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
    }
}
