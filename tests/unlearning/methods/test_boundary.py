import reference
import torch
from plain_training import in_order, reference_task
from problems import same_weights

from salun.models.checkpoint import Checkpoint
from salun.models.features import features_seen, head
from salun.training.evaluate import predict
from salun.unlearning import Task, unlearn
from salun.unlearning.mask import saliency

CPU = torch.device("cpu")
STRONG = {"lr": 0.003, "epochs": 4, "batch_size": 64}


def test_boundary_shrink_trains_as_the_reference_does() -> None:
    case, wanted = reference.settings("boundary_shrink_labels"), reference.arrays("boundary_shrink_labels")
    state, final = reference.tensors("boundary_shrink_model"), reference.tensors("boundary_shrink_final")
    forget = in_order(wanted["inputs"], wanted["labels"])
    task = reference_task(state, forget, forget)
    names = ("bound", "batch_size", "lr", "momentum", "weight_decay", "epochs")
    unlearn(task, "boundary_shrink", {name: case[name] for name in names})
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, final[key], atol=1e-5), key


def test_boundary_expand_is_the_training_of_a_wider_head(task: Task, trained: Checkpoint) -> None:
    # The same steps on a model whose head really has eleven rows, its new row as the method draws it.
    images = task.forget.take(torch.arange(48))
    task.forget = in_order(images.view(images.pixels[images.rows], None), images.labels)
    wide, layer = trained.restore(), head(trained.restore())
    width = layer.in_features
    row = torch.randn(1, width, generator=torch.Generator().manual_seed(0)) * (2 / (width + 11)) ** 0.5
    wide.get_classifier().weight = torch.nn.Parameter(torch.cat([layer.weight.detach(), row]))
    wide.get_classifier().bias = torch.nn.Parameter(torch.cat([layer.bias.detach(), torch.zeros(1)]))
    own = [id(weight) for weight in task.model.parameters()]
    updates = torch.optim.SGD(wide.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    wide.train()
    for batch in [*task.forget.batches(16)] * 2:
        updates.zero_grad()
        torch.nn.functional.cross_entropy(wide(batch.x), torch.full_like(batch.y, 10)).backward()
        updates.step()
    unlearn(task, "boundary_expand", {"lr": 0.05, "epochs": 2, "batch_size": 16, "weight_decay": 0.01})
    assert [id(weight) for weight in task.model.parameters()] == own
    expected = wide.state_dict()
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, expected[key][: len(tensor)] if tensor.ndim else expected[key], atol=1e-5), key


def test_boundary_expand_trains_the_extra_class_under_a_full_mask(task: Task, trained: Checkpoint) -> None:
    # With every weight of the model held, only the extra class can take up the images, and nothing is seen to change.
    unlearn(task, "boundary_expand", STRONG, saliency(trained.restore(), task.forget, 0))
    assert same_weights(task, trained, dict(task.model.named_parameters()))
    with features_seen(task.model) as features:
        predict(task.model, task.forget.take(torch.arange(4)))
        assert features().shape == (4, head(task.model).in_features)
