//! What this node answers when another asks for its images.
//!
//! Start at [`Store::give`]. The caller has made sure that a node of the cluster asks.
//!
//! Not here: the connection, and how many at a time (`kubelet`); asking (`peers.rs`).

use crate::digest::Digest;
use crate::error::OciError;
use crate::name::Reference;
use crate::recipe::Retold;
use crate::store::Store;

/// What is given.
pub enum Given {
    /// An image is described, in JSON.
    Offer(Vec<u8>),
    /// A layer's tar.
    Layer(Box<Retold>),
}

/// An answer; none is "not here, or not for you", and does not tell which.
pub type Answer = Result<Option<Given>, OciError>;

impl Store {
    /// Answers a question: a path below [`PATH`](crate::PEERS_PATH), and what the asker shows for
    /// [`PROOF`](crate::PEERS_PROOF). Blocks.
    pub fn give(&self, path: &str, proof: Option<&str>) -> Answer {
        if let Some(name) = path.strip_prefix("images/") {
            let name: Reference = name.parse()?;
            let offer = self.offer(&name, proof).and_then(|offer| serde_json::to_vec(&offer).ok());
            return Ok(offer.map(Given::Offer));
        }
        let digest = |hex: &str| format!("sha256:{hex}").parse::<Digest>();
        match path.strip_prefix("layers/").and_then(|rest| rest.split_once('/')) {
            Some((image, layer)) => {
                let layer = self.retell(&digest(image)?, &digest(layer)?, proof)?;
                Ok(layer.map(|layer| Given::Layer(Box::new(layer))))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limit;
    use crate::store::Came;

    /// Whether an image is described, and its layer given, to who shows `proof`.
    fn gives(store: &Store, image: &Digest, layer: &Digest, proof: Option<&str>) -> (bool, bool) {
        let path = format!("layers/{}/{}", image.hex(), layer.hex());
        let is_some = |path: &str| store.give(path, proof).expect("an answer").is_some();
        (is_some("images/docker.io/library/app:1"), is_some(&path))
    }

    #[test]
    fn an_image_got_with_a_password_is_for_who_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), &[]).expect("a store");
        let tar = tar::Builder::new(Vec::new()).into_inner().expect("finished");
        let layer = Digest::of(&tar);
        store.add_layer(&layer, &tar[..], &Limit::none()).expect("added");
        let config = format!(r#"{{"rootfs":{{"diff_ids":["{layer}"]}}}}"#);
        let add = |proof: Option<&str>| {
            let came = Came { proof: proof.map(str::to_owned), ..Came::default() };
            store.add_image(config.as_bytes(), ["docker.io/library/app:1".to_owned()], [], came).expect("added").id
        };
        let image = add(Some("mine"));
        assert_eq!(gives(&store, &image, &layer, None), (false, false));
        assert_eq!(gives(&store, &image, &layer, Some("yours")), (false, false));
        assert_eq!(gives(&store, &image, &layer, Some("mine")), (true, true));
        let again = Store::open(folder.path(), &[]).expect("opened again");
        assert_eq!(gives(&again, &image, &layer, None), (false, false));
        // A layer of another image is none of this one.
        assert_eq!(gives(&store, &image, &Digest::of(b"other"), Some("mine")), (true, false));
        add(None);
        assert_eq!(gives(&store, &image, &layer, None), (true, true), "it was got without a password, too");
    }

    #[test]
    fn only_what_is_a_name_is_looked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), &[]).expect("a store");
        assert!(store.give("", None).expect("an answer").is_none());
        for bad in ["layers/../../etc/passwd", "layers/x/y", "images/UPPER/.."] {
            assert!(store.give(bad, None).is_err(), "{bad}");
        }
    }
}
