"""gradients: measure how far the gradient of a word reaches back in an RNN and an LSTM, on the train captions."""

from lib.core.tables import read_images, read_tokens
from lib.gradients.gradient_flow import gradient_flow
from lib.optim.optimiser import make_deterministic
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import run
from stages.common.paths import ANNOTATED_IMAGES, CAPTION_TABLE, METRICS, VOCABULARY
from stages.params import ModelParams, TrainParams, read_params

_MAX_IMAGES = 5000  # the captions of this number of train images are enough for the measurement


def main() -> None:
    model, seed = read_params(ModelParams), read_params(TrainParams).seed
    make_deterministic(seed)
    train = read_images(ANNOTATED_IMAGES, "train").head(_MAX_IMAGES)
    captions = list(read_tokens(CAPTION_TABLE, train["image_id"]).values())
    table = gradient_flow(captions, Vocabulary.load(VOCABULARY), model.embedding, model.hidden, seed)
    METRICS.mkdir(exist_ok=True)
    table.to_csv(METRICS / "gradients.csv", index=False, float_format="%.6g")
    steps, rnn, lstm = table.iloc[-1][["steps_back", "rnn_trained", "lstm_trained"]]
    print(f"gradient norm {steps:.0f} words back, relative to 1 word back: RNN {rnn:.1e}, LSTM {lstm:.1e}")


if __name__ == "__main__":
    run(main)
