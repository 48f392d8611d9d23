"""Training by DeepSpeed: many ranks, ZeRO stages 0 to 3, offload of the optimiser to the host. Updates equal those of
`TorchEngine`.

Notable:
- In all engines weights and moments are float32, and bf16 is used by autocast. So losses do not depend on the engine.

- The loss is called in the forward pass of a module (`Inside`), because ZeRO 3 fetches weights by hooks on modules.

- Weights are loaded before DeepSpeed wraps the model. In ZeRO 3 they are sharded tensor by tensor (`weights.py`). Checkpoints
  hold whole tensors (`checkpoint.py`). A tensor is gathered when it is written.

- Averages of the weights (EMA) are sharded too. Up to stage 2 one rank stores the average of a tensor. In stage 3 each rank
  stores the average of its shard.

- DeepSpeed reduces, measures and clips the gradient, and then calls the inner optimiser. The inner optimiser skips updates
  whose gradient norm is a spike.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_prep.errors import UserError
from jukebox.model.recipe import Recipe
from launch.cluster.group import use_device, who
from launch.engines.checkpoint import Checkpoint
from launch.engines.deepspeed_config import ParallelConfig, configuration
from launch.engines.engine import Engine, Loss
from launch.engines.optimisers import MOMENTS, adamw, parameter_groups
from launch.engines.phases import Phase
from launch.engines.weights import hollow_copy, joined, piece, shard, shard_model


class Inside(nn.Module):
    """The trained modules as one module. The forward pass returns a loss as (total, values of the log)."""

    def __init__(self, learns: nn.Module, engine: DeepSpeedEngine) -> None:
        super().__init__()
        self.learns, self._precision = learns, engine.autocast

    def forward(self, loss: Loss, part: Any) -> tuple[Tensor, dict[str, Tensor]]:
        with self._precision():
            losses = loss(part)
        return losses["loss"], {name: value.detach() for name, value in losses.items()}


class DeepSpeedEngine(Engine):
    """Training by AdamW and DeepSpeed on the ranks of the process group."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, device: torch.device, parallel: ParallelConfig, phases: Sequence[Phase] = ()
    ) -> None:
        phases = phases or [Phase.of(recipe, "", model)]
        if parallel.stage == 3 and len(phases) > 1:
            raise UserError("ZeRO 3 shares out the weights of one phase, and this model has several; give --zero 0, 1 or 2")
        settings, plain = configuration(recipe, parallel, who()[1], device.type == "cuda"), hollow_copy(model)
        start_deepspeed(device)
        if parallel.stage == 3:  # before the optimiser gets the parameters; the whole model is never on the device
            shard_model(model, device, settings)
        else:
            model.to(device)
        super().__init__(model, recipe, device, phases, parallel.accumulate, plain)
        self.stage, self.parallel = parallel.stage, parallel
        shapes = {name: p.shape for name, p in plain.named_parameters()}
        self.shapes = {name: shapes[name] for parameters in self.trained.values() for name in parameters}
        self.inner: dict[str, torch.optim.Optimizer] = {}
        self.verdicts: dict[str, bool | None] = dict.fromkeys(self.phases)
        self.norms = dict.fromkeys(self.phases, 0.0)
        self.engines = {phase.name: self._initialise(phase) for phase in phases}
        self.average = {name: self._shard_of(p).clone() for name, p in self._kept()}

    def _initialise(self, phase: Phase) -> Any:
        import deepspeed

        optimiser = self.inner[phase.name] = self._optimiser(phase.name)
        whole, update = optimiser.step, lambda: self._allowed(phase.name)
        optimiser.step = lambda closure=None: whole() if update() else None  # type: ignore[method-assign]
        settings = configuration(phase.recipe, self.parallel, self.world, self.device.type == "cuda")
        learns = phase.modules[0] if len(phase.modules) == 1 else nn.ModuleList(phase.modules)
        engine, *_ = deepspeed.initialize(model=Inside(learns, self), optimizer=optimiser, config=settings)
        if self.stage:
            self._start_moments(engine.optimizer)
        return engine

    def _optimiser(self, phase: str) -> torch.optim.Optimizer:
        parameters, recipe = list(self.trained[phase].values()), self.phases[phase].recipe
        if self.parallel.adam == "torch":
            return adamw(parameters, recipe)
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

        groups = parameter_groups(parameters, recipe.weight_decay)
        kind = DeepSpeedCPUAdam if self.parallel.offload or self.device.type == "cpu" else FusedAdam
        return kind(groups, lr=recipe.lr, betas=recipe.betas)

    def _start_moments(self, zero: Any) -> None:
        """Create moments of zero. DeepSpeed creates them only at the first update, but a checkpoint may be restored before."""
        counts = self.parallel.adam == "deepspeed"  # DeepSpeed's optimisers count updates as integers
        for flat in flats(zero):
            moments = {kind: torch.zeros_like(flat) for kind in MOMENTS}
            zero.optimizer.state[flat] = {"step": 0 if counts else torch.zeros((), device=flat.device), **moments}
        if self.stage < 3:
            zero._lazy_init_hp_params_optimizer_state()

    def _scalers(self) -> dict[str, torch.amp.GradScaler]:
        found = {phase: getattr(engine.optimizer, "torch_autocast_gradscaler", None) for phase, engine in self.engines.items()}
        return {phase: scaler for phase, scaler in found.items() if scaler is not None}

    # ---- a step

    def _groups(self, phase: str) -> list[dict[str, Any]]:
        return self.engines[phase].optimizer.param_groups

    def _learn(self, phase: str, loss: Loss, part: Any) -> dict[str, Tensor]:
        engine = self.engines[phase]
        self.verdicts[phase] = None
        total, logs = engine(loss, part)
        engine.backward(total)
        engine.step()  # counts the part; updates after the last one
        return logs

    def _allowed(self, phase: str) -> bool:
        """Whether the current update is made. DeepSpeed calls this once per parameter group, and the first call decides."""
        if self.verdicts[phase] is None:
            if self.stage:
                self.norms[phase] = float(self.engines[phase].optimizer._global_grad_norm)
            else:
                clip = self.phases[phase].recipe.clip or torch.inf
                self.norms[phase] = float(nn.utils.clip_grad_norm_(list(self.trained[phase].values()), clip))
            self.verdicts[phase] = allowed = self.spikes[phase].allows(self.norms[phase])
            self.updates[phase] += allowed
        return bool(self.verdicts[phase])

    def _update(self, phase: str) -> float:
        # without a verdict, fp16 has overflowed and the optimiser was not called
        return self.norms[phase] if self.verdicts[phase] is not None else 0.0

    # ---- averages

    def _kept(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters for which this rank stores averages, of whole tensors or in stage 3 of shards."""
        return (each for number, each in enumerate(self._with_average()) if self.stage == 3 or number % self.world == self.rank)

    def _with_average(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of all phases with averages."""
        kept = [parameters for phase, parameters in self.trained.items() if self.phases[phase].recipe.ema]
        return [(name, p) for parameters in kept for name, p in parameters.items()]

    def _shard_of(self, p: nn.Parameter) -> Tensor:
        return shard(p) if self.stage == 3 else p.detach()

    def _averaged(self, phase: str) -> Iterator[tuple[str, Tensor]]:
        mine = self.trained[phase]
        return ((name, self._shard_of(p)) for name, p in self._kept() if name in self.average and name in mine)

    def _whole_averages(self) -> Iterator[tuple[str, Tensor]]:
        for number, (name, _) in enumerate(self._with_average()):
            shape = self.shapes[name]
            if self.stage == 3:
                yield name, joined(self.average[name], shape)
            else:
                owner = number % self.world
                value = self.average[name].clone() if owner == self.rank else torch.empty(shape, device=self.device)
                dist.broadcast(value, owner)
                yield name, value

    @contextlib.contextmanager
    def weights(self) -> Iterator[nn.Module]:
        """Context in which the model has the averaged weights, if any. Afterwards the weights are restored.

        In ZeRO 3 the model of the context is a copy that has weights on rank 0 only. The copy has no DeepSpeed hooks, which
        would wait for the other ranks.
        """
        if self.stage == 3:
            whole = {}
            for name, value in itertools.chain(self._whole_weights(), self._whole_averages()):  # all ranks take part
                whole |= {name: value} if self.rank == 0 else {}
            self.plain.load_state_dict(whole, assign=True, strict=self.rank == 0)
            yield self.plain.eval()
            self.plain.to("meta")
            return
        trained = dict(self._with_average())
        live = {name: p.detach().clone() for name, p in trained.items()}
        for name, value in self._whole_averages():
            trained[name].data.copy_(value)
        yield self.model
        for name, value in live.items():
            trained[name].data.copy_(value)

    # ---- checkpoints

    def _whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole weights and buffers, one at a time. All ranks take part."""
        import deepspeed

        for name, p in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters([p], enabled=self.stage == 3):
                yield name, p.detach().clone()
        parameters = {name for name, _ in self.model.named_parameters()}
        yield from ((name, value) for name, value in self.model.state_dict().items() if name not in parameters)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors, one at a time, with their names in a checkpoint. All ranks yield the same tensors."""
        yield from ((f"weights/{name}", value) for name, value in self._whole_weights())
        yield from ((f"average/{name}", value) for name, value in self._whole_averages())
        for phase, trained in self.trained.items():
            for name, p in trained.items():
                for kind in MOMENTS:
                    if (value := self._moment(phase, p, kind)) is not None:
                        yield f"{kind}/{name}", value

    def _moment(self, phase: str, p: nn.Parameter, kind: str) -> Tensor | None:
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        if self.stage == 3:
            return joined(safe_get_local_optimizer_state(p, kind), p.ds_shape)  # type: ignore[attr-defined]
        if self.stage:
            return safe_get_full_optimizer_state(p, kind)
        return self.inner[phase].state[p][kind] if p in self.inner[phase].state else None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore metadata, moments and averages from a checkpoint. The model already has the weights of the checkpoint."""
        self._restore_metadata(checkpoint.metadata["engine"], checkpoint.metadata["step"])
        for phase, trained in self.trained.items():
            for name, p in trained.items():
                moments = {kind: checkpoint.get(kind, name) for kind in MOMENTS}
                self._restore_moments(phase, p, {kind: v.to(self.device) for kind, v in moments.items() if v is not None})
            if self.stage:
                for flat in flats(self.engines[phase].optimizer):
                    state = self.engines[phase].optimizer.optimizer.state[flat]
                    state["step"] = state["step"] * 0 + self.updates[phase]
        for name, p in self._kept():
            if name in self.average and (kept := checkpoint.get("average", name)) is not None:
                self.average[name].copy_(piece(kept, p) if self.stage == 3 else kept)

    def _restore_moments(self, phase: str, p: nn.Parameter, moments: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not self.stage and len(moments) == len(MOMENTS):
            step = torch.tensor(float(self.updates[phase]), device=p.device)
            self.inner[phase].state[p] = {"step": step, **moments}
        elif self.stage:
            for kind, value in moments.items():
                if self.stage == 3:  # DeepSpeed's function for whole tensors fails if a tensor has fewer values than shards
                    safe_set_local_optimizer_state(p, piece(value, p), kind)
                else:
                    safe_set_full_optimizer_state(p, value, kind)


def start_deepspeed(device: torch.device) -> None:
    """Import DeepSpeed for a device, and initialise it with the process group. A single process gets a group of one rank."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    use_device(device)
    import deepspeed
    import deepspeed.ops

    deepspeed.logger.setLevel("WARNING")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed causes one per step
    if device.type == "cpu":  # this all-reduce is for inference and would need compilation
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "cuda:nccl,cpu:gloo", store=dist.HashStore(), rank=0, world_size=1
        )
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)


def flats(zero: Any) -> list[Tensor]:
    """Return the float32 tensors that the ZeRO optimiser updates on this rank."""
    return (
        zero.fp32_partitioned_groups_flat
        if hasattr(zero, "fp32_partitioned_groups_flat")
        else zero.single_partition_of_fp32_groups
    )
