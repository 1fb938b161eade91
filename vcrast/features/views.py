"""Random views of a batch of clips, batched, without waiting for the device.

Everything is batched, differs from clip to clip and waits for nothing on the device: no loop over clips and no number
that travels back to the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vcrast.config.registry import check_options
from vcrast.features.augment import build_augment, mix_at_snr, pair
from vcrast.features.draws import Draws
from vcrast.features.dropping import Dropping
from vcrast.features.fbank import Fbank

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def build_views(
    options: Mapping[str, Any], *, fbank: Fbank, setting: str = "views", recordings: Sequence[Tensor] = ()
) -> Views:
    """The views that a config group describes; an option that is missing, unknown or of another type is refused.

    `recordings` are those of `background_folder`, see `Views`.
    """
    given = ["fbank", "recordings"]
    check_options(setting, Views, options, given=given)
    local = options["local"]
    if local is not None:
        augment = {**options["augment"], **local.get("augment", {})}
        inner = {**options, **local, "augment": augment, "local": None}
        if "background_folder" in local:
            raise ValueError(f"{setting}.local.background_folder: one folder serves all views; set it beside `local`")
        check_options(f"{setting}.local", Views, inner, given=given)
        local = Views(fbank, recordings=recordings, **inner)
    return Views(fbank, recordings=recordings, **{**options, "local": local})


class Views(nn.Module):
    """Makes views: roll, background, rooms, filters, noise and gain on the waveform, stretch and pitch on the spectrum.

    The rest is changed on the filterbank.

    Args:
        fbank: turns waveforms into normalised filterbanks.
        time_stretch: [lowest, highest] rate of the clip, 1.2 is a fifth faster; null switches it off. The thesis lists
            it as future work with U(0.8, 1.2).
        time_stretch_probability: of a clip to be stretched.
        roll: shift the waveform circularly by a random time.
        gain_db: level changes by a uniform number of dB in [-gain_db, gain_db]. In a log-mel filterbank it is a
            constant added to every bin above the floor.
        gain_probability: of a clip to change its level.
        augment: filters, noise, rooms, polarity and pitch, see `vcrast.features.augment.Augment`.
        background_probability: of adding another sound underneath, in [0, 1].
        background_snr_db: [lowest, highest] level of the clip over that background.
        background_folder: where these sounds come from: None is other clips of the batch, else `recordings`.
        freq_mask_bins: largest width of a frequency mask, 0 for none (SpecAugment's F).
        time_mask_frames: largest width of a time mask, 0 for none (SpecAugment's T).
        num_masks: of each kind. All masks of one kind together cover at most half their axis: wider settings are cut
            to that, because the thesis's widths up to 200 on 128 bins blank 7.7 % of all views.
        noise_std: standard deviation of Gaussian noise added to the normalised filterbank, 0 for none. Drawn on the
            CPU, about 10 ns a value.
        noise_uniform: noise uniform in [0, h) added there, h of each clip uniform in [0, this); 0 for none. The AST's
            `noise` is 0.1, with `shift_frames` 10.
        shift_frames: move the filterbank circularly by a whole number of frames in [-this, this); 0 for none.
        crop: share of the frames that stay, one stretch anywhere in the clip; 1 keeps all.
        crop_frequency: see `vcrast.features.dropping.Dropping`.
        drop: which tokens to take away, see there.
        patch_drop: how many, see there.
        patch_drop_mode: `drop` leaves them out (cheaper), `mask` puts a mask token there; the encoder does it.
        num: views of a clip, for objectives that compare views; of a pair of sounds they take turns.
        local: further views of a clip, smaller ones, made with settings of their own; None for none.
        recordings: of `background_folder`, each (S,) at the clips' rate. Every view hears one of them, each as often,
            from a random place, again from its beginning where it ends. They are kept on the device in one piece.

    Raises:
        ValueError: an option out of its range.

    Source: masks Park et al. 2019, arXiv:1904.08779, with the AST's order of widths (arXiv:2104.01778), but filled with
        0 after normalisation, the data's mean, where the AST fills before it and so writes +0.5, and last, where the
        AST adds its noise on top; small views beside large ones Caron et al.
        2020, arXiv:2006.09882 (SwAV).
    """

    recorded: Tensor | None
    first: Tensor | None
    length: Tensor | None

    def __init__(
        self,
        fbank: Fbank,
        *,
        time_stretch: list[float] | None,
        time_stretch_probability: float,
        roll: bool,
        gain_db: float,
        gain_probability: float,
        augment: Mapping[str, Any],
        background_probability: float,
        background_snr_db: list[float],
        background_folder: str | None,
        freq_mask_bins: int,
        time_mask_frames: int,
        num_masks: int,
        noise_std: float,
        noise_uniform: float,
        shift_frames: int,
        crop: float,
        crop_frequency: float,
        drop: str,
        patch_drop: float | list[float],
        patch_drop_mode: str,
        num: int,
        local: Views | None,
        recordings: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.fbank = fbank
        self.time_stretch = None if time_stretch is None else pair("time_stretch", time_stretch, "0.8, 1.2")
        self.time_stretch_probability, self.gain_probability = time_stretch_probability, gain_probability
        self.augment = build_augment(augment, sample_rate=fbank.sample_rate)
        self.background_snr_db = pair("background_snr_db", background_snr_db, "5, 20")
        self.roll, self.gain_db, self.background_probability = roll, gain_db, background_probability
        self.freq_mask_bins, self.time_mask_frames, self.num_masks = freq_mask_bins, time_mask_frames, num_masks
        self.noise_std, self.noise_uniform, self.shift_frames = noise_std, noise_uniform, shift_frames
        self.crop, self.patch_drop_mode = crop, patch_drop_mode
        self.dropping = Dropping(drop=drop, patch_drop=patch_drop, crop_frequency=crop_frequency)
        self.num, self.local = num, local
        self.background_folder = background_folder
        self._check()
        length = torch.tensor([len(each) for each in recordings]) if recordings else None
        # Not persistent: a checkpoint should hold what was learnt, and the folder gives these again.
        self.register_buffer("recorded", None if length is None else torch.cat(list(recordings)), persistent=False)
        self.register_buffer("first", None if length is None else length.cumsum(0) - length, persistent=False)
        self.register_buffer("length", length, persistent=False)

    def _check(self) -> None:
        if self.time_stretch is not None and self.time_stretch[0] <= 0:
            raise ValueError(
                f"views.time_stretch={list(self.time_stretch)}: rates must be above 0; null switches it off"
            )
        for key in (
            "gain_db", "freq_mask_bins", "time_mask_frames", "num_masks", "noise_std", "noise_uniform", "shift_frames",
        ):  # fmt: skip
            if getattr(self, key) < 0:
                raise ValueError(f"views.{key}={getattr(self, key)}: must not be negative; 0 switches it off")
        if not 0 < self.crop <= 1:
            raise ValueError(f"views.crop={self.crop}: must lie above 0 and up to 1, which keeps all frames")
        for key in ("background_probability", "time_stretch_probability", "gain_probability"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"views.{key}={getattr(self, key)}: must lie in [0, 1]")
        if self.background_folder is not None and self.background_probability == 0:
            raise ValueError(
                f"views.background_folder={self.background_folder}: views.background_probability=0 switches it off; "
                "set that, for instance to 0.5"
            )
        if self.patch_drop_mode not in ("drop", "mask"):
            raise ValueError(f"views.patch_drop_mode={self.patch_drop_mode}: choose from drop, mask")
        if not 1 <= self.num <= len(LETTERS):
            raise ValueError(f"views.num={self.num}: give 1 to {len(LETTERS)} views")
        if self.local is not None and self.local.patch_drop_mode != self.patch_drop_mode:
            raise ValueError("views.local.patch_drop_mode: is that of the other views; set it beside `local`")

    @property
    def local_names(self) -> tuple[str, ...]:
        """Names of the local views."""
        return () if self.local is None else tuple(f"local{number + 1}" for number in range(self.local.num))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all views of a clip: `a`, `b`, ..., then the local ones."""
        return (*LETTERS[: self.num], *self.local_names)

    @property
    def drops_by(self) -> str:
        """The setting that takes tokens away, as the user wrote it; empty if none does."""
        local = "" if self.local is None else self.local.dropping.setting.replace("views.", "views.local.")
        return self.dropping.setting or local

    def of(self, view: str) -> Views:
        """What makes a view: these, or those of the local ones."""
        return self if self.local is None or view not in self.local_names else self.local

    def num_frames(self, view: str, num_frames: int) -> int:
        """Frames of a view of clips that have `num_frames`."""
        return max(1, round(self.of(view).crop * num_frames))

    def first_frames(self, draws: Draws, view: str, num_frames: int) -> Tensor:
        """(b,) int64: where the stretch begins that a view keeps of each clip; `views.crop` is below 1."""
        return starts(draws.uniform(f"{view}/crop"), num_frames - self.num_frames(view, num_frames))

    def two(self, wavs: Tensor, draws: Draws) -> Tensor:
        """Waveforms -> (2, B, [C,] T, F): two views, `a` and `b`, with independent draws.

        Args:
            wavs: (B, S), of which both views are made, or (B, 2, S), a pair of sounds for each clip, one view of each.
            draws: of these B clips.
        """
        first, second = (wavs, wavs) if wavs.ndim == 2 else wavs.unbind(1)
        return torch.stack([self.make(first, draws, "a"), self.make(second, draws, "b")])

    def make(self, wavs: Tensor, draws: Draws, view: str) -> Tensor:
        """One random view of every clip.

        Args:
            wavs: (B, S) in [-1, 1].
            draws: of these B clips; names that start with `view/` are read.
            view: name of the view; another name gives another view.

        Returns:
            (B, T, F) normalised filterbank, or (B, C, T, F) where the front end gives several channels.

        Raises:
            ValueError: a batch of another size than `draws`, or clips shorter than one window.
        """
        if len(wavs) != draws.size:
            raise ValueError(f"{len(wavs)} clips and draws for {draws.size}: they must agree")
        if self.of(view) is not self:
            return self.of(view).make(wavs, draws, view)
        power = self.change_power(self.fbank.power(self.change_wavs(wavs, draws, view)), draws, view)
        fbank = self.fbank.normalize(self.fbank.log_mel(power))
        if self.noise_std > 0:
            fbank = fbank + self.noise_std * draws.normal(f"{view}/noise", *fbank.shape[1:])
        if self.noise_uniform > 0:
            height = draws.uniform(f"{view}/noise_height", 1, 1, high=self.noise_uniform)
            fbank = fbank + height * draws.uniform(f"{view}/noise_uniform", *fbank.shape[1:])
        if self.shift_frames > 0:
            fbank = roll(fbank, draws.integers(f"{view}/shift", 2 * self.shift_frames) - self.shift_frames)
        if self.crop < 1:
            fbank = crop(fbank, draws.uniform(f"{view}/crop"), self.num_frames(view, fbank.shape[1]))
        return self._mask(self.fbank.channels(fbank), draws, view)

    def keep(self, draws: Draws, view: str, grid: tuple[int, int]) -> Tensor | None:
        """The tokens of a view that stay, see `vcrast.features.dropping.Dropping.keep`; None where all do."""
        number = self.names.index(view) % self.num if view in self.names else 0
        return self.of(view).dropping.keep(draws, view, grid, number)

    def change_wavs(self, wavs: Tensor, draws: Draws, view: str) -> Tensor:
        """(B, S) waveforms of a view, before the changes of their spectra."""
        if self.roll:
            wavs = roll(wavs, draws.integers(f"{view}/roll", wavs.shape[1]))
        if self.background_probability > 0:
            wavs = mix_at_snr(wavs, self._background(wavs, draws, view), self.backgrounds_db(draws, view))
        wavs = self.augment.change_wavs(wavs, draws, view)
        if self.gain_db > 0:
            wavs = wavs * (10 ** (self.gains_db(draws, view) / 20)).unsqueeze(1)
        return wavs

    def change_power(self, power: Tensor, draws: Draws, view: str) -> Tensor:
        """(B, T, bins) power spectra of a view, of any window and shift, stretched in time and shifted in pitch."""
        if self.time_stretch is not None:
            power = stretch(power, self.rates(draws, view))
        return self.augment.change_power(power, draws, view)

    def backgrounds_db(self, draws: Draws, view: str) -> Tensor:
        """(b,) level of each clip in dB over the sound underneath, inf where there is none."""
        low, high = self.background_snr_db
        snr_db = draws.uniform(f"{view}/background_snr", low=low, high=high)
        chosen = draws.uniform(f"{view}/background") < self.background_probability
        return torch.where(chosen, snr_db, torch.inf)

    def gains_db(self, draws: Draws, view: str) -> Tensor:
        """(b,) change of the level of each clip in dB."""
        gain_db = draws.uniform(f"{view}/gain", low=-self.gain_db, high=self.gain_db)
        return _some(gain_db, self.gain_probability, 0.0, draws, f"{view}/gain_chosen")

    def rates(self, draws: Draws, view: str) -> Tensor:
        """(b,) rate at which each clip is read; `time_stretch` must be set."""
        low, high = self.time_stretch or (1.0, 1.0)
        rates = draws.uniform(f"{view}/stretch", low=low, high=high)
        return _some(rates, self.time_stretch_probability, 1.0, draws, f"{view}/stretch_chosen")

    def _background(self, wavs: Tensor, draws: Draws, view: str) -> Tensor:
        """(B, S): another clip of the batch for each, or a random stretch of a recording."""
        if self.background_folder is None:
            return wavs[draws.partners(f"{view}/background_partner")]
        assert self.recorded is not None, "views with a background_folder are built with its recordings"
        assert self.first is not None
        assert self.length is not None
        number = draws.integers(f"{view}/background_recording", len(self.length))
        length = self.length[number].unsqueeze(1)
        start = draws.integers(f"{view}/background_start", 2**62).unsqueeze(1)
        place = (start % length + torch.arange(wavs.shape[1], device=wavs.device)) % length
        return self.recorded[self.first[number].unsqueeze(1) + place].to(wavs.dtype)

    def _mask(self, fbank: Tensor, draws: Draws, view: str) -> Tensor:
        hidden = torch.zeros(1, 1, 1, dtype=torch.bool, device=fbank.device)
        for axis, name, widest in ((1, "time", self.time_mask_frames), (2, "freq", self.freq_mask_bins)):
            length = fbank.shape[axis - 3]
            widest = min(widest, length // 2 // max(1, self.num_masks))
            if widest == 0:
                continue
            for number in range(self.num_masks):
                width = draws.integers(f"{view}/{name}_width/{number}", widest + 1)
                place = draws.uniform(f"{view}/{name}_place/{number}")
                hidden = hidden | band(width, place, length).unsqueeze(3 - axis)
        # All channels of a place are hidden together: each could be guessed from the others.
        return fbank.masked_fill(hidden if fbank.ndim == 3 else hidden.unsqueeze(1), 0.0)


def titles_of(views: Any) -> dict[str, str]:
    """What each view is called where it is shown, in order; sorted by nature they are in that order, too."""
    local = views.local_names
    return {name: f"view {n}{' (local)' if name in local else ''}" for n, name in enumerate(views.names, start=1)}


def roll(clips: Tensor, shifts: Tensor) -> Tensor:
    """(B, S) waveforms or (B, T, F) filterbanks, moved circularly to later by (B,) places, each clip by its own."""
    length = clips.shape[1]
    source = (torch.arange(length, device=clips.device) - shifts.unsqueeze(1)) % length
    return clips.gather(1, source if clips.ndim == 2 else source.unsqueeze(2).expand_as(clips))


def crop(fbank: Tensor, place: Tensor, num_frames: int) -> Tensor:
    """(B, T, F) filterbanks -> (B, num_frames, F), each from a start that (B,) places in [0, 1) choose."""
    return part_from(fbank, starts(place, fbank.shape[1] - num_frames), num_frames)


def starts(place: Tensor, room: int) -> Tensor:
    """(B,) places in [0, 1) -> (B,) int64 in [0, room], each as likely."""
    # A float32 place just below 1 may round up to `room + 1`.
    return (place * (room + 1)).long().clamp(max=room)


def part_from(clips: Tensor, first: Tensor, length: int) -> Tensor:
    """(B, S) waveforms or (B, T, F) filterbanks -> (B, length[, F]), each from its own place of (B,) on."""
    source = first.unsqueeze(1) + torch.arange(length, device=clips.device)
    return clips.gather(1, source if clips.ndim == 2 else source.unsqueeze(2).expand(-1, -1, clips.shape[2]))


def stretch(power: Tensor, rates: Tensor) -> Tensor:
    """(B, T, bins) power spectra read `rates` (B,) times as fast, pitch unchanged.

    Frame t of the result is the magnitude at time t * rate, interpolated linearly between the two nearest frames. The
    clip is taken as circular, as `roll` does: a fast clip starts again at its end, so T stays and no frame is empty.
    """
    num_frames = power.shape[1]
    times = torch.arange(num_frames, device=power.device) * rates.unsqueeze(1)  # (B, T)
    times = torch.remainder(times, num_frames)
    before = times.long()
    clip = torch.arange(len(power), device=power.device).unsqueeze(1)
    fraction = (times - before).unsqueeze(2).to(power.dtype)
    magnitude = power.sqrt()
    return torch.lerp(magnitude[clip, before], magnitude[clip, (before + 1) % num_frames], fraction).square()


def band(width: Tensor, place: Tensor, length: int) -> Tensor:
    """(B,) widths and places in [0, 1) -> (B, length) bool, true in a band whose start is uniform where it fits."""
    room = length - width
    # A float32 place just below 1 may round up to `room + 1`.
    first = torch.minimum((place * (room + 1)).long(), room).unsqueeze(1)
    position = torch.arange(length, device=width.device)
    return (position >= first) & (position < first + width.unsqueeze(1))


def _some(numbers: Tensor, probability: float, otherwise: float, draws: Draws, name: str) -> Tensor:
    """(b,) numbers, of the clips that are not chosen `otherwise`."""
    return numbers if probability == 1 else torch.where(draws.uniform(name) < probability, numbers, otherwise)
