"""gradients: how far back a word's loss reaches through an RNN and through an LSTM, on the train split's captions."""

from lib.core.tables import read_table
from lib.gradients.gradient_flow import gradient_flow
from lib.optim.optimiser import make_deterministic
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import CAPTIONS, METRICS, run
from stages.params import read
from stages.params.model import Params as ModelParams
from stages.params.train import Params as TrainParams

_IMAGES = 5000  # whose captions are enough to read


def main() -> None:
    model, seed = read(ModelParams), read(TrainParams).seed
    make_deterministic(seed)
    images = read_table(CAPTIONS / "images.parquet")
    train = images.loc[images["split"] == "train", "image_id"].head(_IMAGES)
    captions = read_table(CAPTIONS / "captions.parquet", columns=["image_id", "tokens"])
    tokens = captions[captions["image_id"].isin(train)].groupby("image_id")["tokens"].agg(list)
    vocabulary = Vocabulary.load(CAPTIONS / "vocabulary.json")
    fading = gradient_flow(list(tokens), vocabulary, model.embedding, model.hidden, seed)
    METRICS.mkdir(exist_ok=True)
    fading.to_csv(METRICS / "gradients.csv", index=False, float_format="%.6g")
    k, rnn, lstm = fading.iloc[-1][["steps_back", "rnn_trained", "lstm_trained"]]
    print(f"of a word's gradient there is left, {k:.0f} words back: RNN {rnn:.1e}, LSTM {lstm:.1e}")


if __name__ == "__main__":
    run(main)
