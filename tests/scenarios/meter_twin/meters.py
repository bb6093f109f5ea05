"""A meter as every other repository has it."""


class AverageMeter:
    def __init__(self):
        self.sum = 0
        self.count = 0

    def update(self, value, n):
        self.sum += value
        self.count += n

    @property
    def average(self):
        return self.sum / self.count
