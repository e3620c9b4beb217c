Feature: Several devices
  Layers are divided by shares. Here two sessions on the CPU stand for two devices.

  Scenario: Texts are those of one device
    Given sixteen prompts
    When each is continued alone
    Given a server whose layers two devices share
    When I ask for the props
    Then the answer's "device" is "cpu, cpu"
    And the answer's "deterministic" is true
    When all are continued at once
    Then the texts are the same
    When all are continued at once, from the cache
    Then the texts are the same
