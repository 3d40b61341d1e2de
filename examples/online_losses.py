"""DML, KDCL, CL-ILR, OKDDip, FFL and PCL in a loop of your own: each in less than twenty lines.

    python examples/online_losses.py

``method.build_peers`` makes the peers that the method trains, of a network of yours, and ``method.loss`` the loss that
``coterie train --method NAME`` optimises. Random images keep it to seconds; nothing is downloaded. In place of
``small_network`` stands any image classifier.
"""

import torch
from torch import Tensor, nn
from torch.optim import SGD

import coterie
from coterie.networks import MovingAverage

EPOCHS = 2


def small_network() -> nn.Module:
    """A classifier of ten classes."""
    return coterie.networks.build("resnet8", 10)


def train_kdcl(images: Tensor, labels: Tensor) -> nn.Module:
    """Two networks learn from one teacher that is made of both on the fly."""
    network = small_network()
    method = coterie.methods.Kdcl(num_peers=2, teacher="linear")
    net = method.build_peers(network, images[:2])
    loss = method.loss(net(images[:2]))
    optimiser = SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        loss(net(images, images.flip(3)), labels).total.backward()  # each network sees a view of its own
        optimiser.step()
    return network


def train_dml(images: Tensor, labels: Tensor) -> nn.Module:
    """Two networks teach each other; as in the paper, each learns from what the other says after its own update."""
    network = small_network()
    method = coterie.methods.Dml(num_peers=2)
    net = method.build_peers(network, images[:2])
    losses = [method.loss(net(images[:2]), learners=(peer,)) for peer in (0, 1)]
    optimisers = [SGD(peer.parameters(), lr=0.05, momentum=0.9) for peer in net.peers.networks]
    for _ in range(EPOCHS):
        for loss, optimiser in zip(losses, optimisers, strict=True):  # for both at once: one loss, one optimiser
            output = net(images)  # anew for each, because the network before it has just been updated
            optimiser.zero_grad()
            loss(output, labels).total.backward()
            optimiser.step()
    return network


def train_cl_ilr(images: Tensor, labels: Tensor) -> nn.Module:
    """Four heads on a tree of shared layers, each taught by the mean of the others; no method is needed for it."""
    network = small_network()
    net = coterie.branch(network, 4, example=images[:2], gate="uniform", rescale=True)
    optimiser = SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        coterie.losses.cl_ilr(net(images), labels, temperature=2.0, beta=0.5).total.backward()
        optimiser.step()
    return network


def train_okddip(images: Tensor, labels: Tensor) -> nn.Module:
    """Peers teach each other by attention, which has parameters of its own; the leader learns from their mean."""
    network = small_network()
    method = coterie.methods.OkdDip(num_peers=4)
    net = method.build_peers(network, images[:2])
    loss = method.loss(net(images[:2]))
    optimiser = SGD([*net.parameters(), *loss.parameters()], lr=0.05, momentum=0.9)
    for epoch in range(EPOCHS):
        optimiser.zero_grad()
        loss(net(images), labels, progress=epoch / EPOCHS).total.backward()
        optimiser.step()
    return network


def train_ffl(images: Tensor, labels: Tensor) -> nn.Module:
    """Sub-networks and a classifier of their fused feature maps teach each other; the latter decays a tenth as much."""
    network = small_network()
    method = coterie.methods.Ffl(num_peers=2)
    net = method.build_peers(network, images[:2])
    loss = method.loss(net(images[:2]))
    fusion = {"params": net.combiner.parameters(), "weight_decay": 1e-5}
    optimiser = SGD([{"params": net.peers.parameters()}, fusion], lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(EPOCHS):
        optimiser.zero_grad()
        loss(net(images), labels, progress=epoch / EPOCHS).total.backward()
        optimiser.step()
    return network


def train_pcl(images: Tensor, labels: Tensor) -> nn.Module:
    """Peers with views of their own learn from their fused ensemble, and from each other's moving averages."""
    network = small_network()
    method = coterie.methods.Pcl(num_branches=3)
    net = method.build_peers(network, images[:2])
    average = MovingAverage(net, method.ema_decay, method.ema_steps, runs=True)
    loss = method.loss(net(images[:2]))
    optimiser = SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(EPOCHS):
        views = images, images.flip(3), images.roll(1, 3)
        optimiser.zero_grad()
        terms = loss(net(*views), labels, progress=epoch / EPOCHS, averaged=average(*views))
        terms.total.backward()
        optimiser.step()
        average.update(net, done=(epoch + 1) / EPOCHS)
    return network


TRAININGS = (train_dml, train_kdcl, train_cl_ilr, train_okddip, train_ffl, train_pcl)


def main(count: int = 32) -> dict[str, nn.Module]:
    """Train with each method on random images, and give the plain networks that are kept."""
    torch.manual_seed(0)
    images, labels = torch.randn(count, 3, 16, 16), torch.randint(10, (count,))
    networks = {train.__name__.removeprefix("train_"): train(images, labels) for train in TRAININGS}
    for name, network in networks.items():
        size = sum(parameter.numel() for parameter in network.parameters())
        print(f"{name}: a plain {type(network).__name__} of {size:,} parameters")
    return networks


if __name__ == "__main__":
    main()
