//! What has gone from the documents of Home Assistant's discovery, and may not have been heard of there. Pure.
//!
//! What a document merely leaves out, Home Assistant keeps: it lets go of a component that is named by its platform alone, and of a device whose
//! document is empty. Neither stays at the broker, so who is away at that moment never hears of it. Hence what was said stays here, and in the
//! outbox ([`Unheard`]), until Home Assistant has come back (its birth) and has been told again. What comes back has not gone any more.

use super::home_assistant::Components;
use crate::outbox::delivery::published_record::Unheard;

/// Components that are remembered; what goes beyond that is told once alone.
const MOST: usize = 16_384;

/// A component without a name: the device itself.
const DEVICE: &str = "";

/// See the module. By the topic of the document.
#[derive(Debug, Default)]
pub struct Partings {
    gone: Unheard,
    /// The outbox has it so.
    written: bool,
}

impl Partings {
    /// Goes on from what the outbox has.
    pub fn new(recorded: Unheard) -> Self {
        Self { gone: recorded, written: true }
    }

    /// `components` have gone from the document under `topic`.
    pub fn part(&mut self, topic: &str, components: &Components) {
        let room = MOST.saturating_sub(self.gone.values().map(Components::len).sum());
        let known = self.gone.get(topic);
        let fresh = components.iter().filter(|(key, _)| !known.is_some_and(|known| known.contains_key(*key)));
        let fresh: Components = fresh.take(room).map(|(key, platform)| (key.clone(), platform.clone())).collect();
        if !fresh.is_empty() {
            self.gone.entry(topic.to_owned()).or_default().extend(fresh);
            self.written = false;
        }
    }

    /// The device whose document lay under `topic` has gone, with everything that it had.
    pub fn part_device(&mut self, topic: &str) {
        if !self.is_device(topic) {
            self.gone.remove(topic);
            self.part(topic, &[(DEVICE.to_owned(), String::new())].into());
        }
    }

    /// There is a document under `topic`, with `components`.
    pub fn come_back(&mut self, topic: &str, components: &Components) {
        let Some(gone) = self.gone.get_mut(topic) else { return };
        let before = gone.len();
        gone.retain(|key, _| key != DEVICE && !components.contains_key(key));
        self.written &= gone.len() == before;
        if gone.is_empty() {
            self.gone.remove(topic);
        }
    }

    /// What has gone from the document under `topic`, which is there.
    pub fn of(&self, topic: &str) -> Option<&Components> {
        self.gone.get(topic).filter(|gone| !gone.contains_key(DEVICE))
    }

    fn is_device(&self, topic: &str) -> bool {
        self.gone.get(topic).is_some_and(|gone| gone.contains_key(DEVICE))
    }

    /// Topics of devices that have gone.
    pub fn devices(&self) -> impl Iterator<Item = &String> {
        self.gone.keys().filter(|topic| self.is_device(topic))
    }

    /// Topics under which something has gone.
    pub fn topics(&self) -> impl Iterator<Item = &String> {
        self.gone.keys()
    }

    /// All of it.
    pub fn all(&self) -> &Unheard {
        &self.gone
    }

    /// Home Assistant is there, and was told of `told`.
    pub fn heard(&mut self, told: &Unheard) {
        let has = |topic: &str, key: &str| told.get(topic).is_some_and(|told| told.contains_key(key));
        let count = |gone: &Unheard| gone.values().map(Components::len).sum::<usize>();
        let before = count(&self.gone);
        for (topic, gone) in &mut self.gone {
            gone.retain(|key, _| !has(topic, key));
        }
        self.gone.retain(|_, gone| !gone.is_empty());
        self.written &= count(&self.gone) == before;
    }

    /// What the outbox does not have so; all of it.
    pub fn unwritten(&self) -> Option<Unheard> {
        (!self.written).then(|| self.gone.clone())
    }

    /// The outbox has `unheard`.
    pub fn written(&mut self, unheard: &Unheard) {
        self.written |= *unheard == self.gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[&str]) -> Components {
        keys.iter().map(|key| ((*key).to_owned(), "sensor".to_owned())).collect()
    }

    #[test]
    fn what_has_gone_is_remembered_until_it_was_heard_or_comes_back_and_each_change_is_to_be_written_down() {
        let mut partings = Partings::default();
        partings.part("ha/gate", &of(&["car", "bus", "van"]));
        let first = partings.unwritten().unwrap();
        partings.written(&first);
        partings.part("ha/gate", &of(&["car"]));
        assert_eq!((partings.unwritten(), partings.of("ha/gate")), (None, Some(&of(&["car", "bus", "van"]))));
        partings.come_back("ha/gate", &of(&["bus", "cat"]));
        assert_eq!(partings.unwritten(), Some([("ha/gate".to_owned(), of(&["car", "van"]))].into()));
        partings.written(&first);
        assert!(partings.unwritten().is_some(), "the outbox has what was");
        // Told now; what goes meanwhile was not.
        let told = partings.all().clone();
        partings.part("ha/gate", &of(&["dog"]));
        partings.heard(&told);
        assert_eq!(partings.of("ha/gate"), Some(&of(&["dog"])));
        let mut next = Partings::new(partings.unwritten().unwrap());
        assert_eq!((next.of("ha/gate"), next.unwritten()), (Some(&of(&["dog"])), None), "another life goes on");
        next.heard(&next.all().clone());
        assert_eq!((next.topics().count(), next.unwritten()), (0, Some(Unheard::new())));
    }

    #[test]
    fn a_device_goes_with_all_it_had_and_does_not_go_again_when_it_has_come_back() {
        let mut partings = Partings::default();
        partings.part("ha/gate", &of(&["car"]));
        partings.part_device("ha/gate");
        assert!(partings.devices().eq(["ha/gate"]) && partings.of("ha/gate").is_none());
        partings.come_back("ha/gate", &of(&["bus"]));
        assert_eq!(partings.topics().count(), 0);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut partings = Partings::default();
        for topic in ["ha/a", "ha/b"] {
            let many = (0..10_000).map(|n| (n.to_string(), "image".to_owned())).collect();
            partings.part(topic, &many);
        }
        assert_eq!(partings.all().values().map(Components::len).sum::<usize>(), MOST);
    }
}
