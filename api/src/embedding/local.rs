//! A static model: a vector for each token, and the mean of those of a text (Model2Vec, Tulkens and van Dongen, 2024).

use std::path::Path;

use model2vec_rs::model::StaticModel;

use super::EmbedError;

/// Tokens of a text that count; what follows is not looked at.
const MAX_TOKENS: usize = 2_048;
/// Texts that are taken apart together.
const BATCH: usize = 1_024;

pub(super) struct Model(StaticModel);

impl Model {
    pub(super) fn open(folder: &Path) -> Result<Self, EmbedError> {
        let broken = |why: String| EmbedError::Model { folder: folder.display().to_string(), why };
        if !folder.is_dir() {
            return Err(broken("there is no such folder".to_owned()));
        }
        let model = StaticModel::from_pretrained(folder, None, None, None);
        model.map(Self).map_err(|error| broken(format!("{error:#}")))
    }

    pub(super) fn embed(&self, texts: &[String]) -> Vec<Vec<f32>> {
        self.0.encode_with_args(texts, Some(MAX_TOKENS), BATCH)
    }
}
